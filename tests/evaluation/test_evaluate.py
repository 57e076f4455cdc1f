"""`evaluate` gathers its tables, repeats itself, and says what it leaves out."""

from __future__ import annotations

import json
import math

import pytest
import torch

from edmfast.evaluation import Evaluation, Table, evaluate
from edmfast.evaluation.plots import level_figure
from edmfast.models import Denoiser, EnergyModel, ResidualMLP
from edmfast.sampling import solvers
from tests.evaluation.models import DIM, Gauged, Turned, exact

SMALL = {
    "nfe": (5, 9),
    "solvers": ("heun", "dpmpp_2m"),
    "samples": 40,
    "level_states": 8,
    "levels": [4.0, 1.0, 0.3],
    "likelihood_states": 6,
    "bootstrap": 4,
    "sigma_min": 0.05,
    "sigma_max": 100.0,
}


def energy(**options):
    torch.manual_seed(0)
    return EnergyModel(ResidualMLP(DIM, width=8, depth=1, **options), sigma_data=1.2)


@pytest.fixture(scope="module")
def result():
    truth = exact()
    return evaluate(energy(), teacher=truth, truth=truth, **SMALL)


def test_the_distances_have_a_row_for_every_run(result):
    rows = result.distances.rows
    runs = [(row["model"], row["solver"], row["NFE"]) for row in rows]
    assert runs[0] == ("data", None, None)
    assert sorted(runs[1:]) == sorted(
        (model, *run)
        for model in ("teacher", "student")
        for run in (("heun", 5), ("heun", 9), ("dpmpp_2m", 5), ("dpmpp_2m", 9))
    )
    for column in ("FD", "FD ±", "sliced W2", "energy distance"):
        assert all(math.isfinite(value) for value in result.distances.column(column))
    # an exact denoiser with nine calls comes nearer to the data than one Gaussian does
    best = {row["model"]: row["FD"] for row in rows if row["NFE"] == 9}
    assert best["teacher"] < best["student"]
    assert result.settings["data"] == 256


def test_the_levels_and_likelihoods_have_rows_for_both_models(result):
    assert result.levels.column("model") == ["teacher"] * 3 + ["student"] * 3
    assert result.levels.column("sigma") == [4.0, 1.0, 0.3] * 2
    ways = [(row["model"], row["way"]) for row in result.likelihood.rows]
    of_both = [(m, w) for m in ("teacher", "student") for w in ("ode", "energies", "paths")]
    assert ways == [("truth", "truth"), *of_both]
    truth, teacher = result.likelihood.rows[0], result.likelihood.rows[1]
    assert teacher["nats"] == pytest.approx(truth["nats"], abs=0.01)
    assert "bits/dim" not in result.likelihood.columns


def test_it_prints_and_is_saved(result, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the pictures need it")
    text = str(result)
    for title in ("Distances of samples", "Consistency by noise level", "Log-density of held-out"):
        assert title in text
    written = result.save(tmp_path / "new" / "folder")
    names = ["evaluation.json", "distances.png", "levels.png", "likelihood.png"]
    assert [path.name for path in written] == names
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written[1:])
    content = json.loads(written[0].read_text(), parse_constant=pytest.fail)
    assert content["settings"]["samples"] == 40
    again = Evaluation.load(tmp_path / "new" / "folder")
    assert str(again) == text
    # without matplotlib the numbers are written, again, without their pictures
    monkeypatch.setattr("edmfast.evaluation.plots.new_figure", _no_matplotlib)
    assert result.save(tmp_path / "new" / "folder") == written[:1]
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="not a file of an evaluation"):
        Evaluation.load(tmp_path / "other.json")


def _no_matplotlib(*_):
    raise ImportError("pictures need matplotlib")


def test_it_repeats_itself_whatever_the_batches_are():
    truth = exact()
    options = SMALL | {"level_states": 0, "likelihood_states": 0, "nfe": (5,), "solvers": "heun"}
    whole = evaluate(truth, truth=truth, **options)
    again = evaluate(truth, truth=truth, **options)
    parts = evaluate(truth, truth=truth, batch_size=7, **options)
    other = evaluate(truth, truth=truth, seed=1, **options)
    assert whole == again
    for column in ("FD", "sliced W2", "energy distance"):
        values = whole.distances.column(column)
        assert parts.distances.column(column) == pytest.approx(values, rel=1e-6)
        assert other.distances.column(column) != pytest.approx(values, rel=1e-3)


def test_a_wrong_model_is_farther_than_the_floor():
    """Samples of the exact model are as near as the floor, and those of a shifted one are not."""
    truth = exact()

    def shifted(x, sigma):
        return truth(x - 0.5, sigma) + 0.5

    options = SMALL | {"samples": 1500, "level_states": 0, "likelihood_states": 0, "nfe": (25,)}
    result = evaluate(shifted, teacher=truth, truth=truth, **(options | {"solvers": "heun"}))
    data, teacher, student = result.distances.rows
    assert student["FD"] == pytest.approx(0.25 * DIM, abs=4 * student["FD ±"])
    assert teacher["FD"] < data["FD"] + 3 * (data["FD ±"] + teacher["FD ±"])
    assert student["sliced W2"] == pytest.approx(0.5, rel=0.15)
    assert student["energy distance"] > 10 * abs(teacher["energy distance"])


def test_bytes_have_bits_per_dimension():
    truth = exact()
    images = (truth.sample(60, seed=3) * 40 + 127.5).clamp(0, 255).round().to(torch.uint8)
    options = SMALL | {"samples": 0, "level_states": 0}
    result = evaluate(energy(), data=images, **options)
    assert set(result.tables) == {"likelihood"}
    for row in result.likelihood.rows:
        expected = -row["nats"] / (DIM * math.log(2)) - math.log2(2 / 255)
        assert row["bits/dim"] == pytest.approx(expected)
        assert row["bits/dim ±"] == pytest.approx(row["nats ±"] / (DIM * math.log(2)))


def test_labels_follow_the_data():
    truth = exact(classes=[0, 1, 1])
    data = truth.sample(80, seed=3)
    labels = truth.responsibilities(data).argmax(1).clamp(max=1)
    options = SMALL | {"nfe": (9,), "solvers": "dpmpp_2m"}
    conditional = evaluate(truth, data=(data, labels), **options)
    free = evaluate(truth, data=(data, labels), conditional=False, **options)
    assert conditional.settings["conditional"] is True
    assert free.settings["conditional"] is False
    for name in ("distances", "levels", "likelihood"):
        assert conditional.tables[name] != free.tables[name], name
    plain = evaluate(energy(), data=(data, labels), **(options | {"likelihood_states": 0}))
    assert plain.settings["conditional"] is False
    with pytest.raises(ValueError, match="conditional=True needs data with labels"):
        evaluate(truth, data=data, conditional=True, **options)


def test_a_run_that_diverges_has_no_distances():
    def model(x, sigma):
        return torch.where(sigma[:, None] < 1, x / 0, x)

    options = SMALL | {"level_states": 0, "likelihood_states": 0, "nfe": (5,), "solvers": "euler"}
    with pytest.warns(UserWarning, match="NaN or infin"):
        result = evaluate(model, truth=exact(), **options)
    assert result.distances.rows[1]["sliced W2"] is None
    assert result.distances.column("FD")[1] is None
    assert "-" in str(result)


def test_the_truth_stands_beside_other_models():
    truth = exact()
    options = SMALL | {"samples": 0, "likelihood_states": 0}
    result = evaluate(Gauged(truth), truth=truth, **options)
    assert result.levels.column("model") == ["truth"] * 3 + ["model"] * 3
    result = evaluate(Turned(truth, 0.1), data=truth.sample(50, seed=1), **options)
    assert result.levels.column("model") == ["model"] * 3


def test_large_samples_without_features_are_noted():
    torch.manual_seed(0)
    model = Denoiser(ResidualMLP(300, width=8, depth=1))
    options = SMALL | {"level_states": 0, "likelihood_states": 0, "nfe": (2,), "solvers": "euler"}
    data = torch.randn(50, 300)
    result = evaluate(model, data=data, **options)
    assert "FD" not in result.distances.columns
    assert "pass features=" in result.notes[0]
    assert result.notes[0] in str(result)
    named = evaluate(model, data=data, features=lambda x: x[:, :3], **options)
    assert math.isfinite(named.distances.column("FD")[1])
    assert named.notes == ()


def test_solvers_of_one_class_keep_their_settings():
    truth = exact()
    options = SMALL | {"level_states": 0, "likelihood_states": 0, "nfe": (6,)}
    chosen = [solvers.DPMSolverMultistep(order=2), solvers.DPMSolverMultistep(order=3)]
    result = evaluate(truth, truth=truth, **(options | {"solvers": chosen}))
    first, second = result.distances.column("solver")[1:]
    assert first == "DPMSolverMultistep"
    assert "order=3" in second
    assert result.distances.rows[1]["FD"] != result.distances.rows[2]["FD"]


def test_a_truth_without_classes_is_left_out_beside_labels():
    truth = exact(classes=[0, 1, 1])
    data = truth.sample(40, seed=3)
    labels = truth.responsibilities(data).argmax(1).clamp(max=1)
    options = SMALL | {"samples": 0}
    result = evaluate(truth, data=(data, labels), truth=exact(), **options)
    assert set(result.levels.column("model")) == {"model"}
    assert "minus truth" not in result.likelihood.columns


def test_wrong_arguments_are_refused():
    truth = exact()
    for options, match in (
        ({}, "pass data=, samples to compare"),
        ({"data": truth.sample(3, seed=0)}, "at least 4 data, got 3"),
        ({"truth": truth, "samples": 1}, "samples must be 0 or at least 2"),
        ({"truth": truth, "solvers": ()}, "at least one solver"),
        ({"truth": truth, "solvers": "none"}, "unknown solver 'none'"),
        ({"truth": truth, "sigma_min": 3.0, "sigma_max": 2.0}, "sigma_min must be below"),
        ({"truth": truth, "levels": [1.0, 2.0]}, "levels that decrease"),
        ({"truth": truth, "levels": [1.0]}, "at least two levels"),
    ):
        with pytest.raises(ValueError, match=match):
            evaluate(truth, **options)


def test_a_column_without_numbers_has_no_panel():
    pytest.importorskip("matplotlib", reason="the pictures need it")
    rows = [{"model": "m", "sigma": s, "NAsym": math.nan, "circulation": s} for s in (2.0, 1.0)]
    figure = level_figure(Table("t", tuple(rows)))
    assert [axis.get_title() for axis in figure.axes] == ["circulation (0: a gradient, at most 1)"]


def test_a_table_knows_its_columns():
    table = Table("t", ({"a": 1, "b": math.nan}, {"a": 2, "c": "x"}), ("note",))
    assert table.columns == ("a", "b", "c")
    assert table.column("c") == [None, "x"]
    assert table.to_json()["rows"] == [{"a": 1, "b": None}, {"a": 2, "c": "x"}]
    assert str(table).splitlines()[-3:] == ["1  -  -", "2  -  x", "note"]
    with pytest.raises(KeyError, match="no column 'd'; there are a, b, c"):
        table.column("d")
