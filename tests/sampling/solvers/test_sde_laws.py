"""The exact laws of the stochastic solvers on Gaussians: gains, variances and their orders of convergence."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from edmfast.analytic import GaussianMixture
from edmfast.sampling import sample
from edmfast.sampling.engine import plan_of, requests_of
from edmfast.sampling.solvers import SEEDS, ReverseSDE
from tests.affine import exact_gain, law, slopes

F64 = torch.float64
LEVELS = [8.0, 5.0, 2.0, 0.9, 0.4]
ETAS = [0.0, 0.5, 1.0, 2.0]
FAMILY = [SEEDS(order, prediction) for order in (1, 2, 3) for prediction in ("denoised", "epsilon")]


def exact(first, last, eta, std=1.0):
    """Return (gain, variance of the noise) of the reverse SDE from one level to another."""
    gain = exact_gain(first, last, std) ** (1 + eta)
    return gain, std**2 + last**2 - gain**2 * (std**2 + first**2)


@pytest.mark.parametrize("eta", ETAS)
def test_the_reverse_sde_is_its_recurrence(eta):
    gain, offset, variance, mean, std = 1.0, 0.0, 0.0, 1.5, 0.8
    for sigma, level in itertools.pairwise(LEVELS):
        delta = (sigma**2 - level**2) / 2
        pull = (1 + eta) * delta / (std**2 + sigma**2)
        gain, offset = (1 - pull) * gain, (1 - pull) * offset + pull * mean
        variance = (1 - pull) ** 2 * variance + 2 * eta * delta
    assert law(ReverseSDE(eta), LEVELS, mean, std) == pytest.approx((gain, offset, variance))


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("prediction", ["denoised", "epsilon"])
def test_seeds_1_is_its_recurrence(prediction, eta):
    gain, offset, variance, mean, std = 1.0, 0.0, 0.0, 1.5, 0.8
    for sigma, level in itertools.pairwise(LEVELS):
        share = std**2 / (std**2 + sigma**2)
        if prediction == "denoised":
            decay = (level / sigma) ** (1 + eta)
            factor, shift = decay + (1 - decay) * share, (1 - decay) * (1 - share) * mean
            fresh = level**2 * (1 - (level / sigma) ** (2 * eta))
        else:
            pull = (1 + eta) * (sigma - level) / sigma * (1 - share)
            factor, shift = 1 - pull, pull * mean
            fresh = eta * (sigma**2 - level**2)
        gain, offset, variance = (
            factor * gain,
            factor * offset + shift,
            factor**2 * variance + fresh,
        )
    result = law(SEEDS(1, prediction, eta), LEVELS, mean, std)
    assert result == pytest.approx((gain, offset, variance))


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_seeds_is_exact_where_its_prediction_is_constant(order, eta):
    first, last = LEVELS[0], LEVELS[-1]
    # All data at one point have constant denoised states, and data without bound have no noise to
    # predict.
    gain, offset, variance = law(SEEDS(order, "denoised", eta), LEVELS, mean=0.7, std=0.0)
    decay = (last / first) ** (1 + eta)
    assert gain == pytest.approx(decay, rel=1e-12)
    assert offset == pytest.approx(0.7 * (1 - decay), rel=1e-12)
    expected = last**2 * (1 - (last / first) ** (2 * eta))
    assert variance == pytest.approx(expected, rel=1e-12)
    gain, _, variance = law(SEEDS(order, "epsilon", eta), LEVELS, std=1e12)
    assert gain == pytest.approx(1, rel=1e-12)
    assert variance == pytest.approx(eta * (first**2 - last**2), rel=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("solver", FAMILY, ids=lambda s: f"{s.order}-{s.prediction}")
def test_the_mean_converges_with_the_order(solver, eta):
    gain = exact(5.0, 0.3, eta)[0]
    errors = [
        abs(law(SEEDS(solver.order, solver.prediction, eta), geometric(n)).gain / gain - 1)
        for n in (64, 128)
    ]
    assert slopes(errors) == pytest.approx([solver.order], abs=0.1)


@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("solver", FAMILY, ids=lambda s: f"{s.order}-{s.prediction}")
def test_the_variance_converges_with_order_two_from_two_stages_on(solver, eta):
    gain, variance = exact(5.0, 0.3, eta)
    laws = [law(SEEDS(solver.order, solver.prediction, eta), geometric(n)) for n in (256, 512)]
    errors = [abs(result.variance / variance - 1) for result in laws]
    assert slopes(errors) == pytest.approx([min(solver.order, 2)], abs=0.1)
    assert laws[-1].gain == pytest.approx(gain, rel=0.03)


def test_the_mean_of_the_diffusion_is_exact_with_denoised_states():
    for order in (1, 2, 3):
        result = law(SEEDS(order), LEVELS).gain
        assert result == pytest.approx(exact(LEVELS[0], LEVELS[-1], 1.0)[0], rel=1e-13)


@pytest.mark.parametrize("eta", [0.5, 2.0])
def test_the_reverse_sde_converges_with_order_one(eta):
    gain, variance = exact(5.0, 0.3, eta)
    laws = [law(ReverseSDE(eta), geometric(n)) for n in (512, 1024)]
    assert slopes([abs(r.gain / gain - 1) for r in laws]) == pytest.approx([1], abs=0.1)
    assert slopes([abs(r.variance / variance - 1) for r in laws]) == pytest.approx([1], abs=0.1)


def geometric(steps):
    return np.geomspace(5.0, 0.3, steps + 1)


@pytest.mark.parametrize("solver", [*FAMILY, ReverseSDE()])
def test_the_draws_of_a_step_are_parts_of_one_path(solver):
    intervals = [interval for _, interval in requests_of(plan_of(solver, (*LEVELS, 0.0)))]
    assert intervals[0][0] == LEVELS[0]
    assert intervals[-1][1] == LEVELS[-1]
    for (_, end), (start, _) in itertools.pairwise(intervals):
        assert start == end
    assert all(start > end for start, end in intervals)


@pytest.mark.parametrize("solver", [SEEDS(3), SEEDS(2, "epsilon", 0.5), ReverseSDE(0.7)])
def test_samples_have_the_law_of_the_plan(solver):
    normal = GaussianMixture(torch.tensor([[1.5]], dtype=F64), torch.tensor([0.8], dtype=F64))
    x = torch.full((20000, 1), 3.0, dtype=F64)
    result = sample(normal, x, torch.tensor(LEVELS, dtype=F64), solver, seed=5, disable=True)
    gain, offset, variance = law(solver, LEVELS, 1.5, 0.8)
    error = math.sqrt(variance / len(x))
    assert result.mean().item() == pytest.approx(3 * gain + offset, abs=4 * error)
    assert result.var().item() == pytest.approx(variance, rel=4 * math.sqrt(2 / len(x)))


@pytest.mark.parametrize("solver", [SEEDS(1), SEEDS(3), SEEDS(3, "epsilon"), ReverseSDE()])
def test_runs_with_more_steps_follow_the_same_path(solver):
    mixture = GaussianMixture(torch.tensor([[-1.5, 0.5], [1.0, 1.0]], dtype=F64), [0.5, 0.3])
    x = 5 * torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    ends = [
        sample(mixture, x, torch.from_numpy(geometric(n)), solver, seed=3, disable=True)
        for n in (16, 128, 1024)
    ]
    coarse, fine = ((end - ends[-1]).abs().mean().item() for end in ends[:2])
    assert fine < coarse / 3
    # Independent paths end about 0.5 apart.
    assert coarse < 0.1


def test_a_step_to_0_ends_at_the_denoised_states_without_noise():
    for solver in (SEEDS(3), SEEDS(1, "epsilon"), ReverseSDE()):
        gain, offset, variance = law(solver, [2.0, 0.0], mean=1.0)
        assert (gain, offset, variance) == pytest.approx((0.2, 0.8, 0.0))


def test_levels_that_increase_need_the_ode():
    for solver in (SEEDS(2), ReverseSDE(0.5)):
        with pytest.raises(ValueError, match="eta must be 0 where sigmas increase, got eta="):
            plan_of(solver, (1.0, 2.0))
    for solver in (SEEDS(2, eta=0.0), ReverseSDE(0.0)):
        assert law(solver, np.geomspace(0.3, 5.0, 2000)).gain == pytest.approx(
            exact_gain(0.3, 5.0), rel=0.01
        )


def test_an_unknown_prediction_is_refused():
    with pytest.raises(
        ValueError, match="prediction must be one of 'denoised', 'epsilon', got 'v'"
    ):
        SEEDS(2, "v")
