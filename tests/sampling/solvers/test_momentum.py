"""Multistep solvers with momentum: formulas, orders of accuracy and ends of stability."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from edmfast.analytic import GaussianMixture
from edmfast.sampling import sample, solvers
from edmfast.sampling.solvers import GHVB, IPNDM, HeavyBall, Nesterov, stability_end
from tests.affine import exact_gain, law, slopes, uniform

F64 = torch.float64
LEVELS = [10.0, 7.0, 4.5, 3.0, 2.0, 1.2, 0.7, 0.4]
AB = {
    1: [1],
    2: [3 / 2, -1 / 2],
    3: [23 / 12, -16 / 12, 5 / 12],
    4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    5: [1901 / 720, -2774 / 720, 2616 / 720, -1274 / 720, 251 / 720],
}


def generalised(k, b):
    return {
        1: [b],
        2: [(2 + b) / 2, -(2 - b) / 2],
        3: [(18 + 5 * b) / 12, -(24 - 8 * b) / 12, (6 - b) / 12],
        4: [(46 + 9 * b) / 24, -(78 - 19 * b) / 24, (42 - 5 * b) / 24, -(10 - b) / 24],
        5: [
            (1650 + 251 * b) / 720,
            -(3420 - 646 * b) / 720,
            (2880 - 264 * b) / 720,
            -(1380 - 106 * b) / 720,
            (270 - 19 * b) / 720,
        ],
    }[k]


def by_hand(kind, order, levels, x=1.0):
    """Return the end of a run on N(0, 1), whose slope is x sigma / (1 + sigma²), by the published recurrences."""
    k = math.ceil(order)
    beta = order - math.floor(order) or 1.0
    past, v = [], None
    for sigma, sigma_next in itertools.pairwise(levels):
        slope = x * sigma / (1 + sigma**2)
        v = slope if v is None else v
        if kind is GHVB:
            v = (1 - beta) * v + beta * slope
            past = [v, *past][:k]
            u = sum(c * p for c, p in zip(generalised(len(past), beta), past, strict=True)) / beta
        else:
            past = [slope, *past][:k]
            mean = sum(c * p for c, p in zip(AB[len(past)], past, strict=True))
            v = (1 - beta) * v + beta * mean
            u = (1 - beta) * v + beta * mean if kind is Nesterov else v
        x = x + (sigma_next - sigma) * u
    return x


@pytest.mark.parametrize("order", [0.3, 1, 1.8, 2, 2.5, 3, 3.9, 4, 4.2, 5])
@pytest.mark.parametrize("kind", [GHVB, HeavyBall, Nesterov])
def test_the_plan_is_the_published_recurrence(kind, order):
    levels = [*LEVELS, 0.0]
    assert law(kind(order), levels).gain == pytest.approx(by_hand(kind, order, levels), rel=1e-13)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_integer_orders_are_the_method_of_adams_and_bashforth(order):
    expected = by_hand(HeavyBall, order, LEVELS)
    for solver in (IPNDM(order), GHVB(order), HeavyBall(order), Nesterov(order)):
        assert law(solver, LEVELS).gain == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("order", [0.8, 1.8, 2.8, 3.9, 4.5])
@pytest.mark.parametrize("kind", [GHVB, HeavyBall, Nesterov])
def test_a_run_over_tensors_follows_the_plan(kind, order):
    normal = GaussianMixture(torch.tensor([[1.5]], dtype=F64), torch.tensor([0.8], dtype=F64))
    x = torch.linspace(-20, 20, 7, dtype=F64)[:, None]
    end = law(kind(order), LEVELS, mean=1.5, std=0.8)
    result = sample(normal, x, torch.tensor(LEVELS, dtype=F64), kind(order), disable=True)
    torch.testing.assert_close(result, end.gain * x + end.offset, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (GHVB(0.8), 1.0),
        (GHVB(1.8), 2.0),
        (GHVB(2.8), 3.0),
        (GHVB(3.9), 3.9),
        (IPNDM(1), 1.0),
        (IPNDM(2), 2.0),
        (IPNDM(3), 3.0),
        (IPNDM(4), 3.9),
        # The velocity lags behind by a time proportional to the step.
        (HeavyBall(2.8), 1.0),
        (Nesterov(2.8), 1.0),
    ],
)
def test_orders_of_accuracy_on_uniform_grids(solver, order):
    errors = [
        abs(law(solver, uniform(20.0, 1.0, n)).gain / exact_gain(20.0, 1.0) - 1)
        for n in (512, 1024)
    ]
    assert slopes(errors) == pytest.approx([order], abs=0.1)


def recurrence(solver, z):
    """Return the spectral radius of the steps of a solver on x' = lambda x with h lambda = z."""
    k = math.ceil(solver.order)
    beta = solver.order - (k - 1)
    matrix = np.zeros((2 + k, 2 + k))  # x, the velocity before, and the last k slopes or velocities
    slope, v, mean = np.eye(2 + k)[0] * z, np.eye(2 + k)[1], np.zeros(2 + k)
    past = list(np.eye(2 + k)[2:])
    if isinstance(solver, GHVB):
        new = (1 - beta) * v + beta * slope
        shares = [c / beta for c in generalised(k, beta)]
        kept = new
    else:
        new, shares, kept = None, AB[k], slope
    mean = sum(c * p for c, p in zip(shares, [kept, *past[: k - 1]], strict=True))
    if new is None:
        new = (1 - beta) * v + beta * mean
        update = (1 - beta) * new + beta * mean if isinstance(solver, Nesterov) else new
    else:
        update = mean
    matrix[0] = np.eye(2 + k)[0] + update
    matrix[1] = new
    for j, row in enumerate([kept, *past[: k - 1]]):
        matrix[2 + j] = row
    return np.abs(np.linalg.eigvals(matrix)).max()


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8, 1.0])
def test_ends_of_stability_have_their_closed_forms(beta):
    ends = [stability_end(GHVB(k + beta)) for k in range(4)]
    expected = [
        -2 * (2 - beta) / beta,
        -(2 - beta),
        -6 * (2 - beta) / (12 - beta),
        -3 * (2 - beta) / (11 - beta),
    ]
    assert ends == pytest.approx(expected, rel=1e-12)
    assert stability_end(HeavyBall(beta)) == pytest.approx(expected[0], rel=1e-12)


def test_without_damping_the_ends_are_those_of_adams_and_bashforth():
    for kind in (GHVB, HeavyBall, Nesterov, IPNDM):
        ends = [stability_end(kind(k)) for k in (1, 2, 3, 4)]
        assert ends == pytest.approx([-2, -1, -6 / 11, -3 / 10], rel=1e-12)


def test_the_roots_grow_slowly_beyond_the_end_of_order_four():
    # At these two values, found elsewhere by simulation, a step multiplies by 1.0085.
    for beta, z in ((0.5, -0.433), (0.8, -0.357)):
        assert recurrence(GHVB(3 + beta), z) == pytest.approx(1.0085, abs=5e-5)
        assert stability_end(GHVB(3 + beta)) == pytest.approx(z, abs=5e-3)


@pytest.mark.parametrize("order", [0.5, 1, 1.3, 2.2, 2.9, 3.5, 4.6, 5])
@pytest.mark.parametrize("kind", [GHVB, HeavyBall, Nesterov])
def test_all_roots_are_in_the_unit_circle_up_to_the_end_and_not_beyond(kind, order):
    end = stability_end(kind(order))
    inside = [recurrence(kind(order), share * end) for share in np.linspace(0.01, 0.999, 60)]
    assert max(inside) < 1
    assert recurrence(kind(order), 1.001 * end) > 1


@pytest.mark.parametrize("beta", [1.0, 0.6])
def test_2m_with_momentum_is_its_recurrence(beta):
    levels, x, v, previous = [*LEVELS, 0.0], 1.0, None, None
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(levels)):
        denoised = x / (1 + sigma**2)
        target = denoised
        if i > 0 and sigma_next > 0:
            h, before = math.log(sigma / sigma_next), math.log(levels[i - 1] / sigma)
            target = denoised + h / (2 * before) * (denoised - previous)
            v = target if v is None else (1 - beta) * v + beta * target
            target = v
        x = sigma_next / sigma * x + (1 - sigma_next / sigma) * target
        previous = denoised
    result = law(solvers.DPMSolverPP2MHeavyBall(beta), levels).gain
    assert result == pytest.approx(x, rel=1e-13)
    if beta == 1:
        assert result == pytest.approx(law(solvers.DPMSolverPP2M(), levels).gain, rel=1e-14)


@pytest.mark.parametrize("order", [0, -1.0, 5.1, math.nan, "2"])
@pytest.mark.parametrize("kind", [GHVB, HeavyBall, Nesterov])
def test_orders_out_of_range_are_refused(kind, order):
    with pytest.raises((TypeError, ValueError), match="order must be"):
        kind(order)


def test_stability_of_other_solvers_is_refused():
    with pytest.raises(TypeError, match="must be an IPNDM, GHVB, HeavyBall or Nesterov, got Heun"):
        stability_end(solvers.Heun())
