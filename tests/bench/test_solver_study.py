"""The study of solvers: its exact ends, and what the page says of few and of many calls."""

import pytest
import torch

from bench.studies import solvers as study
from edmfast.sampling import solvers


@pytest.fixture(scope="module")
def digits():
    return study.problem(states=6)


def test_the_exact_ends_have_converged(digits):
    model, x, _ = digits
    ends = [study.exact_ends(model, x, steps) for steps in (100, 200)]
    assert float((ends[0] - ends[1]).abs().max()) < 1e-4


def test_each_solver_makes_the_calls_that_it_is_given(digits):
    model, x, _ = digits
    counted = []

    def count(state, sigma):
        counted.append(1)
        return model(state, sigma)

    for name, run in study.SOLVERS.items():
        counted.clear()
        run(count, x[:1], 10)
        # Solvers of two calls a step make an odd number.
        assert len(counted) == (9 if name == "`Heun()`" else 10), name


def test_momentum_is_stable_at_few_guided_calls_and_high_orders_win_at_many(digits):
    model, x, classes = digits
    names = {"GHVB": solvers.GHVB(1.8), "UniPC": solvers.UniPC(3), "Euler": solvers.Euler()}
    runs = {name: study.by(solver) for name, solver in names.items()}
    guided = study.guided(model, classes, 6.0)
    errors = study.errors(guided, x, runs, (6, 40))
    assert errors["GHVB"][0] < errors["Euler"][0] < errors["UniPC"][0]
    assert errors["UniPC"][1] < errors["GHVB"][1] < errors["Euler"][1]


def test_the_table_marks_the_smallest_numbers():
    lines = study.table({"a": [1234.0, 0.5], "b": [2.0, 0.75]}, (6, 10))
    assert lines[2:] == ["| a | 1200 | **0.5** |", "| b | **2** | 0.75 |"]
    assert torch.equal(study.grid(3)[-1:], torch.zeros(1, dtype=torch.float64))
