"""Measured orders of convergence on a Gaussian mixture, from 32 to 256 steps.

The exact end of a trajectory comes from the Runge-Kutta method of `log_likelihood` with tiny tolerances.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch

from edmfast import sampling
from edmfast.analytic import GaussianMixture
from edmfast.sampling.likelihood.runge_kutta import integrate

MIXTURE = GaussianMixture([[-0.5, 0.0], [0.5, 0.2]], [0.5, 0.4])
STEPS = (32, 64, 128, 256)
START = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@functools.cache
def exact(low, high):
    def rates(u, y):
        return MIXTURE.denoise(y, (-u).exp()) - y, torch.zeros_like(u)

    return integrate(rates, high * START, -math.log(high), -math.log(low), 1e-11, 1e-11).y


def error(name, count, low, high, options):
    sampler = getattr(sampling, name)
    if name == "sample_dpm_fast":
        x = sampler(MIXTURE, high * START, low, high, count, disable=True)
    else:
        sigmas = sampling.get_sigmas_karras(count + 1, low, high)[:-1]
        x = sampler(MIXTURE, high * START, sigmas, disable=True, **options)
    return float((x - exact(low, high)).square().mean().sqrt())


@pytest.fixture(autouse=True)
def float64():
    # DPM-Solver-fast computes its coefficients in torch's default dtype, as k-diffusion does.
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("sample_euler", {}, 1.0),
        ("sample_heun", {}, 2.0),
        ("sample_dpm_2", {}, 2.0),
        ("sample_dpmpp_2m", {}, 1.95),
        ("sample_lms", {"order": 2}, 1.96),
        ("sample_lms", {"order": 3}, 2.92),
        ("sample_lms", {"order": 4}, 3.7),
        ("sample_euler_ancestral", {"eta": 0.0}, 1.0),
        ("sample_dpm_2_ancestral", {"eta": 0.0}, 2.0),
        ("sample_dpmpp_2s_ancestral", {"eta": 0.0}, 1.93),
        ("sample_dpmpp_sde", {"eta": 0.0}, 1.93),
        ("sample_dpmpp_sde", {"eta": 0.0, "r": 0.4}, 1.93),
        ("sample_dpmpp_2m_sde", {"eta": 0.0}, 1.95),
        ("sample_dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"}, 2.0),
    ],
    ids=str,
)
def test_order_over_a_karras_grid(name, options, order):
    errors = [error(name, steps, 0.02, 20.0, options) for steps in STEPS]
    slope = -float(np.polyfit(np.log(STEPS), np.log(errors), 1)[0])
    assert slope == pytest.approx(order, abs=0.1)


def test_the_published_3m_has_order_two_in_the_limit():
    coarse, fine = (
        error("sample_dpmpp_3m_sde", steps, 0.1, 5.0, {"eta": 0.0}) for steps in (128, 256)
    )
    assert math.log2(coarse / fine) == pytest.approx(2.04, abs=0.1)


def test_steps_of_dpm_solver_fast_have_order_three():
    # These numbers of calls end with a step of order 2, whose own error is of the third power of its length.
    coarse, fine = (error("sample_dpm_fast", n, 0.1, 5.0, {}) for n in (257, 512))
    assert math.log2(coarse / fine) == pytest.approx(2.95, abs=0.1)
