"""With rising levels the solvers of the ODE carry a sample back to its noise, as k-diffusion's do.

For data N(0, s²) the denoiser is D = s² x/(s² + sigma²), and a trajectory of the ODE is
x(sigma) = x(sigma_0) sqrt((s² + sigma²)/(s² + sigma_0²)).
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from edmfast import sampling

STD = 0.7
ODE = [sampling.sample_euler, sampling.sample_heun, sampling.sample_dpmpp_2m]


def gaussian(x, sigma):
    return x * (STD**2 / (STD**2 + sigma.reshape(-1, *[1] * (x.dim() - 1)) ** 2))


def levels(count, low=0.05, high=10.0):
    return torch.exp(torch.linspace(math.log(low), math.log(high), count + 1, dtype=torch.float64))


def start():
    return torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)


def exact(x, sigmas):
    return x * math.sqrt((STD**2 + float(sigmas[-1]) ** 2) / (STD**2 + float(sigmas[0]) ** 2))


def error(sampler, count):
    sigmas = levels(count)
    result = sampler(gaussian, start(), sigmas, disable=True)
    return float((result - exact(start(), sigmas)).abs().max())


@pytest.mark.parametrize(
    ("sampler", "order"), [*zip(ODE, (1, 2, 2), strict=True)], ids=["euler", "heun", "2m"]
)
def test_noise_of_a_gaussian_sample_at_the_order_of_the_method(sampler, order):
    coarse, fine = error(sampler, 64), error(sampler, 128)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)
    assert fine < (0.5 if order == 1 else 0.02)


def euler(x, sigmas):
    for sigma, following in itertools.pairwise(sigmas):
        x = x + (x - gaussian(x, sigma)) / sigma * (following - sigma)
    return x


def heun(x, sigmas):
    for sigma, following in itertools.pairwise(sigmas):
        slope = (x - gaussian(x, sigma)) / sigma
        end = x + slope * (following - sigma)
        x = x + (slope + (end - gaussian(end, following)) / following) / 2 * (following - sigma)
    return x


def dpmpp_2m(x, sigmas):
    before = None
    for i in range(len(sigmas) - 1):
        denoised = gaussian(x, sigmas[i])
        h = math.log(sigmas[i] / sigmas[i + 1])
        target = denoised
        if before is not None:
            r = math.log(sigmas[i - 1] / sigmas[i]) / h
            target = (1 + 1 / (2 * r)) * denoised - before / (2 * r)
        x = sigmas[i + 1] / sigmas[i] * x - math.expm1(-h) * target
        before = denoised
    return x


@pytest.mark.parametrize(
    ("sampler", "formula"),
    [*zip(ODE, (euler, heun, dpmpp_2m), strict=True)],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("steps", [levels(7), levels(7).flip(0), torch.tensor([0.1, 0.3, 4.0])])
def test_published_formulas_in_both_directions(sampler, formula, steps):
    steps = steps.double()
    result = sampler(gaussian, start(), steps, disable=True)
    torch.testing.assert_close(result, formula(start(), steps), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("sampler", "bound"), [*zip(ODE, (0.08, 1e-3, 1e-3), strict=True)], ids=["euler", "heun", "2m"]
)
def test_a_sample_comes_back_from_its_noise(sampler, bound):
    sigmas = levels(200)
    noise = exact(start(), sigmas)
    sample = sampler(gaussian, noise, sigmas.flip(0), disable=True)
    again = sampler(gaussian, sample, sigmas, disable=True)
    assert float((again / noise - 1).abs().max()) < bound


def test_ancestral_sampling_rises_only_without_noise():
    sigmas = levels(9)
    plain = sampling.sample_euler(gaussian, start(), sigmas, disable=True)
    result = sampling.sample_euler_ancestral(gaussian, start(), sigmas, eta=0.0, disable=True)
    assert torch.equal(result, plain)
    with pytest.raises(ValueError, match="sigmas must decrease strictly"):
        sampling.sample_euler_ancestral(gaussian, start(), sigmas, disable=True)


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_an_ancestral_step_up_is_refused(kind):
    # The formula has the square root of a negative number, which is complex for floats and NaN for tensors.
    with pytest.raises(ValueError, match="sigma_to must not exceed sigma_from"):
        sampling.get_ancestral_step(kind(1.0), kind(2.0))
    assert sampling.get_ancestral_step(kind(1.0), kind(2.0), eta=0) == (2.0, 0.0)


@pytest.mark.parametrize("sampler", ODE)
@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([0.0, 1.0, 2.0], "must start above 0, because the slope .* divides by the level"),
        ([1.0, 2.0, 1.5], r"increase strictly .* got sigmas\[1\] = 2.0, sigmas\[2\] = 1.5"),
        ([2.0, 1.0, 1.5], r"decrease strictly .* got sigmas\[1\] = 1.0, sigmas\[2\] = 1.5"),
        ([1.0, 2.0, 2.0], "increase strictly"),
        ([1.0, 2.0, 0.0], "increase strictly"),
    ],
)
def test_other_orders_of_levels_are_refused(sampler, sigmas, message):
    with pytest.raises(ValueError, match=message):
        sampler(gaussian, start(), torch.tensor(sigmas), disable=True)


@pytest.mark.parametrize("sampler", [sampling.sample_euler, sampling.sample_heun])
def test_churn_raises_each_level_first_as_for_falling_levels(sampler):
    sigmas, noise = levels(3), torch.full_like(start(), 0.5)
    churned = {"s_churn": 0.3, "noise_sampler": lambda *_: noise, "disable": True}
    result = sampler(gaussian, start(), sigmas, **churned)
    x, formula = start(), euler if sampler is sampling.sample_euler else heun
    for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        x = x + noise * math.sqrt((1.1 * sigma) ** 2 - sigma**2)
        x = formula(x, torch.tensor([1.1 * sigma, following], dtype=torch.float64))
    torch.testing.assert_close(result, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["DPMSolverPP2MSDE", "DPMSolverPP3MSDE", "DPMSolverMultistep", "SEEDS", "ReverseSDE"]
)
def test_a_solver_of_the_sde_names_eta_where_levels_rise(name):
    solver = getattr(sampling.solvers, name)(eta=0.5)
    with pytest.raises(ValueError, match=r"eta must be 0 where sigmas increase, got eta=0\.5"):
        sampling.sample(gaussian, start(), levels(3), solver, disable=True)
