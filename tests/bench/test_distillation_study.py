"""The study of students trains, resumes, judges and draws; a real run takes an hour."""

import json

import pytest
import torch

from bench.studies.distillation import limits, run, training
from bench.studies.distillation.measures import LEVELS, judge, means, score_ratio
from bench.studies.distillation.picture import draw
from bench.studies.distillation.recipes import RECIPES
from bench.studies.distillation.training import Size, train

SIZE = Size(steps=6, data=64, count=16, more=16, width=4)


def test_an_interrupted_training_goes_on_with_its_curve(tmp_path, monkeypatch):
    recipe, measured = RECIPES["denoiser"], training.errors_of
    monkeypatch.setattr(training, "POINTS", (0.2, 0.5))
    (tmp_path / "whole").mkdir()
    whole = train(recipe, tmp_path / "whole", SIZE)
    calls = []

    def interrupted(student, count):
        calls.append(count)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measured(student, count)

    monkeypatch.setattr(training, "errors_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, SIZE)
    row = train(recipe, tmp_path, SIZE)
    assert {**row, "cpu_seconds": 0} == {**whole, "cpu_seconds": 0}
    assert [*row["curve"]] == ["1", "3"]
    assert training.finished(recipe, tmp_path, 0) == row
    assert training.finished(recipe, tmp_path, 1) is None
    # a finished row is not trained again
    count = len(calls)
    assert train(recipe, tmp_path, SIZE) == row
    assert len(calls) == count


def row_of(between, score):
    errors = {"score": [score] * len(LEVELS)}
    return errors | ({} if between is None else {"between": [between] * len(LEVELS)})


def test_means_over_seeds():
    rows = [{"name": "a", "end": row_of(b, s)} for b, s in ((0.2, 0.1), (0.4, 0.3))]
    found = means([*rows, {"name": "b", "end": row_of(None, 0.5)}])
    assert found["a"]["between"] == pytest.approx([0.3] * len(LEVELS))
    assert found["a"]["score"] == pytest.approx([0.2] * len(LEVELS))
    assert found["b"] == row_of(None, 0.5)


def test_goals():
    rows = {
        "denoiser": row_of(None, 0.1),
        "inner": row_of(0.35, 0.104),
        "two heads": row_of(0.5, 0.11),
        "norm": row_of(0.3, 0.2),
    }
    met = [met for _, met in judge(rows)]
    assert score_ratio(rows["inner"], rows["denoiser"]) == pytest.approx(1.04)
    # energies, scores, both of two heads, then energies and scores against those of the norm
    assert met == [True, True, False, True, False, True]
    assert judge({"inner": rows["inner"]}) == []


def test_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="the picture is drawn by matplotlib")
    rows = [
        {
            "name": "a",
            "teacher": "none",
            "settings": {"time_score_weight": 0.1},
            "steps": 4,
            "curve": {"2": row_of(0.7, 0.2)},
            "end": row_of(0.4, 0.1),
        },
        {
            "name": "b",
            "teacher": "exact",
            "settings": {},
            "steps": 4,
            "curve": {},
            "end": row_of(None, 0.1),
        },
    ]
    draw(rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.slow
def test_a_quick_run_writes_a_row_for_every_student(tmp_path, capsys):
    path = tmp_path / "numbers.json"
    arguments = ["--quick", "--students", str(tmp_path / "students"), "--json", str(path)]
    assert run.main(arguments) == 0
    facts = json.loads(path.read_text())
    assert [row["name"] for row in facts["rows"][::2]] == [*RECIPES]
    assert [row["seed"] for row in facts["rows"]] == [0, 1] * len(RECIPES)
    for row in facts["rows"]:
        assert len(row["end"]["score"]) == len(LEVELS)
        assert ("between" in row["end"]) == ("denoiser" not in row["name"])
    assert "students of the smooth digits" in capsys.readouterr().out


def test_limits():
    shares = torch.eye(3, dtype=torch.float64).repeat(20, 1)
    error = shares @ torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    assert limits.between_components(error, shares) == pytest.approx(7**0.5)
    samples = limits.load_smooth_digits().sample(4000, seed=0)
    fitted = limits.refit(samples)
    mean = (fitted.weights[:, None] * fitted.means).sum(0)
    torch.testing.assert_close(mean.double(), samples.mean(0), rtol=0, atol=1e-5)
    # an exact denoiser has the right values up to the noise of its probes
    found = limits.errors_of_path_values(limits.exact_denoiser, 320)
    assert max(found) < 0.2
