"""The study of students trains, resumes, judges and draws; a real run takes an hour."""

import json

import pytest

from bench.studies.distillation import run, training
from bench.studies.distillation.measures import LEVELS, judge, score_ratio
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
    # a finished row is not trained again
    count = len(calls)
    assert train(recipe, tmp_path, SIZE) == row
    assert len(calls) == count


def row_of(between, score):
    errors = {"score": [score] * len(LEVELS)}
    return errors | ({} if between is None else {"between": [between] * len(LEVELS)})


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
            "steps": 4,
            "curve": {"2": row_of(0.7, 0.2)},
            "end": row_of(0.4, 0.1),
        },
        {"name": "b", "teacher": "exact", "steps": 4, "curve": {}, "end": row_of(None, 0.1)},
    ]
    draw(rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.slow
def test_a_quick_run_writes_a_row_for_every_student(tmp_path, capsys):
    path = tmp_path / "numbers.json"
    arguments = ["--quick", "--students", str(tmp_path / "students"), "--json", str(path)]
    assert run.main(arguments) == 0
    facts = json.loads(path.read_text())
    assert [row["name"] for row in facts["rows"]] == [*RECIPES]
    for row in facts["rows"]:
        assert len(row["end"]["score"]) == len(LEVELS)
        assert ("between" in row["end"]) == ("denoiser" not in row["name"])
    assert "students of the smooth digits" in capsys.readouterr().out
