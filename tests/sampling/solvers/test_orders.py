"""Test the order of every solver: the slope of its error from 32 to 256 steps on a mixture of Gaussians.

The grid is that of Karras et al. The momentum methods have coefficients of equal steps in sigma and take those.
Solvers of SDEs are measured on the ODE, with eta = 0. Their laws are the subject of `test_sde_laws`.
"""

from __future__ import annotations

import functools
import inspect
import math

import numpy as np
import pytest
import torch

from edmfast import sampling
from edmfast.sampling import solvers
from edmfast.sampling.engine import Solver
from tests.sampling.solvers.problem import HIGH, LOW, karras, mixture, start, truth

STEPS = (32, 64, 128, 256)
FULL = {"lower_order_final": False}
# (solver, order): the orders that are measured in the references, or those of the docstrings.
KARRAS = [
    (solvers.Euler(), 1.0),
    (solvers.Heun(), 2.0),
    (solvers.DPM2(), 2.0),
    (solvers.AncestralEuler(0.0), 1.0),
    (solvers.AncestralDPM2(0.0), 2.0),
    (solvers.AncestralDPMSolverPP2S(0.0), 1.93),
    (solvers.DPMSolverPPSDE(0.0), 1.93),
    (solvers.DPMSolverPP2M(), 1.95),
    (solvers.DPMSolverPP2MSDE(0.0), 1.95),
    (solvers.DPMSolverPP2MSDE(0.0, solver_type="heun"), 2.0),
    (solvers.DPMSolverPP3MSDE(0.0), 2.04),
    (solvers.DPMSolverMultistep(2, **FULL), 1.95),
    (solvers.DPMSolverMultistep(3, **FULL), 2.04),
    (solvers.DPMSolverMultistep("exact", **FULL), 3.01),
    (solvers.DPMSolverSinglestep(2, "epsilon"), 1.98),
    (solvers.DPMSolverSinglestep(3, "epsilon"), 2.95),
    (solvers.DPMSolverSinglestep(2), 1.93),
    (solvers.DPMSolverSinglestep(3), 2.90),
    (solvers.UniPC(1, **FULL), 2.0),
    (solvers.UniPC(2, **FULL), 3.0),
    (solvers.UniPC(2, corrector=False, **FULL), 2.0),
    (solvers.UniPC(3, corrector=False, **FULL), 3.0),
    (solvers.DEIS(2, "rho"), 1.96),
    (solvers.DEIS(3, "rho"), 2.92),
    (solvers.DEIS(4, "rho"), 3.7),
    (solvers.DEIS(2, "log_rho"), 1.95),
    (solvers.DEIS(3, "log_rho"), 3.03),
    (solvers.DEIS(2), 2.0),
    (solvers.DEIS(3), 2.92),
    (solvers.LinearMultistep(2), 1.96),
    (solvers.LinearMultistep(3), 2.92),
    (solvers.LinearMultistep(4), 3.7),
    (solvers.RhoRungeKutta("euler"), 1.0),
    (solvers.RhoRungeKutta("heun2"), 2.0),
    (solvers.RhoRungeKutta("kutta3"), 3.1),
    (solvers.RhoRungeKutta("rk4"), 4.0),
    *[(solvers.SEEDS(k, "denoised", 0.0), float(k)) for k in (1, 2, 3)],
    *[(solvers.SEEDS(k, "epsilon", 0.0), float(k)) for k in (1, 2, 3)],
    (solvers.ReverseSDE(0.0), 1.0),
    (solvers.DPMSolverPP2MHeavyBall(0.8), 1.0),
    (solvers.DPMSolverPP2MHeavyBall(1.0), 2.0),
    (solvers.UniPCHeavyBall(2, beta=0.8, **FULL), 1.0),
    (solvers.UniPCHeavyBall(2, beta=1.0, **FULL), 3.0),
]
# The first step is Euler's, so higher orders do not show between these levels: see `test_momentum` for them.
EQUAL = [
    (solvers.IPNDM(1), 1.0),
    (solvers.IPNDM(2), 2.0),
    (solvers.GHVB(0.8), 1.0),
    (solvers.GHVB(1.8), 2.0),
    (solvers.HeavyBall(0.8), 1.0),
    (solvers.HeavyBall(1.8), 1.0),
    (solvers.HeavyBall(2.0), 2.0),
    (solvers.Nesterov(0.8), 1.0),
    (solvers.Nesterov(2.0), 2.0),
]
# These have a number of calls or of steps as a setting, and tests of their own below.
OTHERS = {"DPMSolverFast", "TaylorSchedule"}


def slope(counts, errors):
    sizes = [float(error.abs().mean()) for error in errors]
    return -float(np.polyfit(np.log(counts), np.log(sizes), 1)[0])


def run(solver, sigmas, x=None):
    return sampling.sample(mixture, start() if x is None else x, sigmas, solver, disable=True)


def equal(steps):
    return torch.linspace(4.0, 2.0, steps + 1, dtype=torch.float64)


@functools.cache
def end_of_equal():
    return run(solvers.RhoRungeKutta("rk4"), equal(1000), start() * 4 / HIGH)


def test_every_solver_is_measured():
    kinds = {name for name in solvers.__all__ if inspect.isclass(getattr(solvers, name))}
    kinds = {name for name in kinds if issubclass(getattr(solvers, name), Solver)}
    assert kinds == {type(solver).__name__ for solver, _ in KARRAS + EQUAL} | OTHERS


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "order"), KARRAS, ids=str)
def test_the_order_over_a_karras_grid(solver, order):
    errors = [run(solver, karras(steps)) - truth() for steps in STEPS]
    assert slope(STEPS, errors) == pytest.approx(order, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "order"), EQUAL, ids=str)
def test_the_order_over_equal_steps_in_sigma(solver, order):
    x = start() * 4 / HIGH
    errors = [run(solver, equal(steps), x) - end_of_equal() for steps in STEPS]
    assert slope(STEPS, errors) == pytest.approx(order, abs=0.1)


@pytest.mark.slow
def test_dpm_solver_fast_has_order_three():
    # These numbers of calls end with a step of order 2, whose own error is of the third power of its length.
    counts, errors = (32, 65, 128, 257), []
    for n in counts:
        grid = torch.linspace(math.log(HIGH), math.log(LOW), n // 3 + 2, dtype=torch.float64)
        errors.append(run(solvers.DPMSolverFast(n), grid.exp()) - truth())
    assert slope(counts, errors) == pytest.approx(3, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("order", [2, 3])
def test_a_schedule_of_taylor_steps_has_the_order_of_its_steps(order):
    points = tuple(range(1, order))
    first, second = (
        solvers.TaylorStep(),
        solvers.TaylorStep(derivatives=(solvers.Derivative((1,)),)),
    )
    kind = solvers.TaylorStep(derivatives=tuple(solvers.Derivative(points) for _ in points))
    errors = []
    for steps in STEPS:
        kinds = (first, second, *(kind for _ in range(steps - 2)))
        errors.append(run(solvers.TaylorSchedule(kinds), karras(steps)) - truth())
    assert slope(STEPS, errors) == pytest.approx(order, abs=0.1)
