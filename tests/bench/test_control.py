"""Test the measures, the laws and the goals of the benchmark of controlled sampling."""

import functools
import json
import math
import re
import statistics

import pytest
import torch

pytest.importorskip("sklearn.datasets", reason="needs scikit-learn (extra `demo`)")

from bench.rivals.control import Outcome
from bench.studies.control import goals, kernels, run, students
from bench.studies.control.comparison import as_json, compare, mean_and_error, section
from bench.studies.control.laws import LAWS, Size
from bench.studies.control.measures import COLUMNS, answer_of, note_on_draws, numbers_of
from bench.studies.control.tasks import Task, digit_tasks
from edmfast.analytic import MixtureOfGaussians
from edmfast.models import EnergyModel, ResidualMLP

SMALL = Size(particles=24, populations=8, threshold=0.4, budget=20, pilot=24)


def _mixture():
    """Return three Gaussians in three dimensions with two classes."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(3, 3, 2, generator=generator, dtype=torch.float64)
    means = 2 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    covariances = (torch.full((3, 3), 0.1), 0.3 * factors)
    return MixtureOfGaussians(means, covariances, [0.5, 0.3, 0.2], [0, 1, 1])


POWER = Task("p^2", (_mixture(),), (2.0,))
PRODUCT = Task("pq", (_mixture(), _mixture().conditional(1)), (1.0, 1.0))


def _measures(task, draws):
    return functools.partial(numbers_of, answer_of(task, draws))


@pytest.mark.parametrize("task", [POWER, PRODUCT], ids=["power", "product"])
def test_numbers_of_exact_draws_in_groups(task):
    answer = answer_of(task, 2000)
    x = answer.draws.view(16, 125, 3)
    equal = torch.zeros(16, 125, dtype=torch.float64)
    log_z = torch.full((16,), answer.log_z + 0.5, dtype=torch.float64)
    numbers = numbers_of(answer, Outcome(x, equal, log_z + 9, log_z, log_z * 0 + 0.25, 1, 0))
    of_groups = {"tv", "log_z", "frechet", "sliced"} | ({"tv_class"} if task is POWER else set())
    assert {name for name, values in numbers.items() if len(values) == 2} == of_groups
    assert {name for name, values in numbers.items() if len(values) == 16} == {
        "tv_run",
        "gap",
        "ancestors",
        "variance",
    }
    assert max(numbers["tv"]) < 0.03 < statistics.fmean(numbers["tv_run"]) < 0.08
    assert numbers["log_z"] == pytest.approx([0.5, 0.5])
    assert statistics.fmean(numbers["gap"]) == pytest.approx(0, abs=1e-9)
    assert numbers["ancestors"] == [25.0] * 16
    unweighted = numbers_of(answer, Outcome(x, equal, log_z, None, log_z, 1, 0))
    assert set(numbers) - set(unweighted) == {"log_z", "variance"}


def test_perfect_samples_have_a_note():
    assert re.fullmatch(
        r"8 runs of 50 exact draws: TV of mean [\d.]+, TV per run [\d.]+ ± [\d.]+, .*",
        note_on_draws(answer_of(POWER, 400), 50),
    )


@pytest.mark.parametrize("task", [POWER, PRODUCT], ids=["power", "product"])
def test_laws_cost_what_the_budget_allows(task):
    rows = [*compare(task, _measures(task, 300), SMALL, seed=0)]
    left_out = {law.name for law in LAWS} - {row.law for row in rows}
    assert left_out == (set() if task is PRODUCT else {"SuperDiff AND"})
    for row in rows:
        cost = (row.forwards + row.vjps) / len(task.models)
        assert 0.75 * SMALL.budget <= cost <= SMALL.budget + 2, row.law
        values = [value for numbers in row.numbers.values() for value in numbers]
        assert all(map(math.isfinite, values)), row.law
        assert len(row.numbers["tv_run"]) == len(row.numbers["ancestors"]) == 8
    table = section("title", rows, COLUMNS, [])
    assert len(table.rows) == len(rows)
    assert {len(row) for row in table.rows} == {len(table.header)}
    assert len(as_json(task, SMALL, rows)["rows"]) == len(rows)


def test_reversals_are_nearer_to_the_masses_than_scaled_scores():
    """The mean masses of eight populations, in the task that the goals judge first."""
    size = Size(particles=64, populations=8, threshold=0.4, budget=32, pilot=0)
    laws = [
        law for law in LAWS if law.name in ("scaled scores, no weights", "reversal, exact traces")
    ]
    task = digit_tasks()[0]
    scaled, ours = compare(task, _measures(task, 100), size, 1, laws)
    assert scaled.numbers["tv"][0] > 0.5
    assert ours.numbers["tv"][0] < 0.5 * scaled.numbers["tv"][0]


def test_goals():
    numbers = {"tv": [0.05, 0.11], "variance": [1.0, 3.5]}
    rows = [{"law": law, "numbers": numbers} for law in {goal.law for goal in goals.GOALS}]
    rows += [{"law": goal.law, "numbers": {"tv": [0.5]}} for goal in goals.RIVALS]
    table = {"task": "p^2", "particles": 256, "rows": rows}
    other = {"task": "p", "particles": 64, "rows": []}
    judged = dict(goals.judge([table, other]))
    assert judged == {
        "p^2, reversal, exact traces: tv 0.08 <= 0.1": True,
        "p^2, reversal, exact traces: variance 2.25 <= 2": False,
        "p^2, reversal, 1 probe: tv 0.08 <= 0.12": True,
        "p^2, reversal, 1 probe: variance 2.25 <= 3": True,
        "p^2, reversal, calibrated probes: tv 0.08 <= 0.12": True,
        "p^2, reversal, calibrated probes: variance 2.25 <= 3": True,
        "p^2, scaled scores, no weights: tv 0.5 >= 0.6": False,
        "p^2, FKC, target score: tv 0.5 >= 0.4": True,
    }


def test_kernels_and_thresholds():
    table = kernels.kernels([POWER], SMALL, seed=0)
    assert len(table.rows) == 2 * 5
    variances = {row[0]: float(str(row[1]).split(" ")[0]) for row in table.rows}
    assert variances["p^2, 32 steps: curvature_matched"] < variances["p^2, 32 steps: euler"]
    assert len(kernels.thresholds(POWER, SMALL, seed=0).rows) == len(kernels.THRESHOLDS)


def test_distilled_energies_beside_exact_ones():
    torch.manual_seed(0)
    untrained = EnergyModel(ResidualMLP(64, width=8, depth=1), sigma_data=0.5)
    table = students.section({"student": untrained}, particles=8, populations=2, seed=0)
    assert [row[0] for row in table.rows[:4]] == [
        "A = 1: exact / exact",
        "A = 1: student / same",
        "A = 1: student / exact",
        "A = 1: exact / student",
    ]


def test_the_command_writes_its_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "digit_tasks", lambda: [POWER])
    tiny = SMALL._replace(particles=8, budget=10, pilot=8)
    monkeypatch.setattr(run, "QUICK", run.Budget((tiny,), tiny, tiny, 100, 8, 2))
    assert run.main(["--quick", "--json", str(tmp_path / "a.json")]) == 0
    written = json.loads((tmp_path / "a.json").read_text())
    assert [table["task"] for table in written["comparisons"]] == ["p^2"]
    assert len(written["tables"]) == 3
    assert written["quick"] is True
    assert written["goals"] == []
    assert "reversal, 1 probe" in capsys.readouterr().out


@pytest.mark.slow
def test_the_quick_command():
    assert run.main(["--quick"]) == 0


def test_mean_and_error():
    assert mean_and_error([]) == "-"
    assert mean_and_error([0.25]) == "0.25"
    assert mean_and_error([1.0, 3.0]) == "2 ± 1"
