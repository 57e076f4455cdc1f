"""Schedules agree with k-diffusion's in float32 and with their formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.sampling import (
    get_sigmas_exponential,
    get_sigmas_karras,
    get_sigmas_polyexponential,
    get_sigmas_vp,
)

N, LOW, HIGH, RHO = 18, 0.02, 20.0, 1.5
SCHEDULES = [
    ("sigmas_karras", lambda: get_sigmas_karras(N, LOW, HIGH)),
    ("sigmas_exponential", lambda: get_sigmas_exponential(N, LOW, HIGH)),
    ("sigmas_polyexponential", lambda: get_sigmas_polyexponential(N, LOW, HIGH, rho=RHO)),
]


@pytest.mark.parametrize(("key", "schedule"), SCHEDULES)
def test_agrees_with_k_diffusion(stored, key, schedule):
    # The stored levels were computed with float32 powers and exponentials, with relative errors up to 1e-6.
    torch.testing.assert_close(schedule(), stored[key], rtol=2e-6, atol=0, check_dtype=False)


def test_vp_agrees_with_k_diffusion(stored):
    # k-diffusion subtracts 1 from a float32 exponential, which rounds sigma² + 1.
    expected = stored["sigmas_vp"].double() ** 2
    torch.testing.assert_close(get_sigmas_vp(N).double() ** 2, expected, rtol=2e-6, atol=1.2e-7)


def test_levels_are_rounded_once():
    got = get_sigmas_karras(5, 0.002, 80.0, rho=3.0)
    high, low = 80.0 ** (1 / 3), 0.002 ** (1 / 3)
    exact = [(high + i / 4 * (low - high)) ** 3 for i in range(5)] + [0.0]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), torch.tensor(exact).double(), rtol=6e-8, atol=0)


def test_default_dtype_is_followed():
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert get_sigmas_vp(3).dtype == torch.float64
    finally:
        torch.set_default_dtype(previous)


def test_vp_ends():
    levels = get_sigmas_vp(4, beta_d=2.0, beta_min=0.5, eps_s=0.25)
    assert float(levels[0]) == pytest.approx(math.sqrt(math.exp(1.5) - 1), rel=1e-6)
    assert float(levels[-2]) == pytest.approx(math.sqrt(math.exp(2 / 32 + 0.125) - 1), rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 40])
def test_length_and_order(n):
    for levels in (
        get_sigmas_karras(n, LOW, HIGH),
        get_sigmas_polyexponential(n, LOW, HIGH, 2.0),
        get_sigmas_vp(n),
    ):
        assert len(levels) == n + 1
        assert levels[-1] == 0
        assert (levels.diff() < 0).all()
    assert get_sigmas_karras(n, LOW, HIGH)[0] == HIGH


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, LOW, HIGH), "n must be .* got 0"),
        ((-3, LOW, HIGH), "n must be .* got -3"),
        ((5, 0.0, HIGH), "sigma_min must be positive and finite, got 0.0"),
        ((5, LOW, math.nan), "sigma_max must be positive and finite, got nan"),
        ((5, 2.0, 1.0), "sigma_min must not exceed sigma_max, got sigma_min=2.0"),
    ],
)
@pytest.mark.parametrize(
    "schedule", [get_sigmas_karras, get_sigmas_exponential, get_sigmas_polyexponential]
)
def test_bad_ranges_are_refused(schedule, arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule(*arguments)


@pytest.mark.parametrize(
    ("schedule", "arguments", "message"),
    [
        (get_sigmas_karras, (5, LOW, HIGH, 0.0), "rho must be positive"),
        (get_sigmas_polyexponential, (5, LOW, HIGH, -1.0), "rho must be positive"),
        (get_sigmas_vp, (0,), "n must be"),
        (get_sigmas_vp, (5, -1.0), "beta_d must be positive"),
        (get_sigmas_vp, (5, 19.9, 0.1, 1.5), r"eps_s must lie in \(0, 1\], got 1.5"),
    ],
)
def test_bad_coefficients_are_refused(schedule, arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule(*arguments)


@pytest.mark.parametrize(
    ("schedule", "arguments", "message"),
    [
        (get_sigmas_karras, (5, 1e-300, 1.0), "every level but the last must be positive"),
        (get_sigmas_exponential, (5, 1.0, 1e200), "every level but the last must be .* finite"),
        (get_sigmas_vp, (5, 1e4), "every level but the last must be .* finite"),
        (get_sigmas_karras, (5, LOW, HIGH, 1e-4), "rho must leave"),
        (get_sigmas_karras, (5, LOW, HIGH, 1e300), "rho must leave"),
    ],
)
def test_levels_that_do_not_fit_the_dtype_are_refused(schedule, arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule(*arguments)
