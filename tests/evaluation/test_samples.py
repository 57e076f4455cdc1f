"""Runs spend the model calls that they are given, and their samples do not depend on the batches."""

from __future__ import annotations

import pytest
import torch

from edmfast.evaluation.samples import SOLVERS, as_solver, draw_samples, grid_of
from edmfast.sampling import solvers
from tests.evaluation.models import DIM, exact


def drawn(model, solver, nfe, batch_size, count=6, condition=None, like=None):
    grid = grid_of(solver, nfe, 0.05, 20.0)
    batches = draw_samples(
        model,
        solver,
        grid.sigmas,
        (DIM,),
        count,
        batch_size=batch_size,
        seed=5,
        like=torch.empty(0, dtype=torch.float64) if like is None else like,
        condition=condition or {},
    )
    return torch.cat([*batches]), grid


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("nfe", [5, 10])
def test_a_grid_spends_its_calls(name, nfe):
    truth, calls = exact(), []

    def model(x, sigma):
        calls.append(len(x))
        return truth(x, sigma)

    x, grid = drawn(model, SOLVERS[name], nfe, batch_size=6)
    assert grid.calls == len(calls) <= nfe
    # no step is left over that would have been affordable
    assert grid.calls >= nfe - 2
    assert grid.sigmas[-1] == 0
    assert x.isfinite().all()


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "dpmpp_2m_sde", "euler_ancestral"])
def test_batches_make_no_difference(name):
    whole, _ = drawn(exact(), SOLVERS[name], 8, batch_size=6)
    parts, _ = drawn(exact(), SOLVERS[name], 8, batch_size=4)
    torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-9)
    assert len(whole.unique(dim=0)) == 6


def test_every_batch_gets_its_conditions():
    truth = exact(classes=[0, 1, 2])
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    whole, _ = drawn(truth, as_solver("heun"), 9, 6, condition={"class_label": labels})
    parts, _ = drawn(truth, as_solver("heun"), 9, 4, condition={"class_label": labels})
    torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-9)
    assert truth.responsibilities(whole).argmax(1).tolist() != labels.flip(0).tolist()


def test_states_have_the_dtype_that_is_asked_for():
    x, _ = drawn(exact(), as_solver("euler"), 4, 3, like=torch.empty(0, dtype=torch.float32))
    assert x.dtype == torch.float32


def test_solvers_by_name_and_as_objects():
    assert as_solver("heun") == solvers.Heun()
    assert as_solver(solvers.UniPC()) == solvers.UniPC()
    with pytest.raises(ValueError, match="unknown solver 'rk4'; known: euler, heun"):
        as_solver("rk4")
    with pytest.raises(TypeError, match="names or objects"):
        as_solver(3)


def test_too_few_calls():
    with pytest.raises(ValueError, match="DPMSolverPPSDE has no grid of at most 0"):
        grid_of(solvers.DPMSolverPPSDE(), 0, 0.1, 1.0)
