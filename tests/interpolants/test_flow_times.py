"""Test noise levels made of flow times against a loop of Euler's method over the times themselves."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast import analytic, interpolants, sampling

DATA = analytic.GaussianMixture([[-1.5, 0.5], [1.0, -2.0]], [0.5, 0.8])
Z = torch.randn(6, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_euler_over_levels_is_euler_over_times():
    s = torch.linspace(0.98, 0, 8, dtype=torch.float64)
    velocity = interpolants.to_velocity(DATA, direction="data_to_noise")
    x = 0.98 * Z
    for now, following in zip(s[:-1].tolist(), s[1:].tolist(), strict=True):
        x = x + (following - now) * velocity(x, now)
    flow = interpolants.from_velocity(velocity, direction="data_to_noise")
    torch.set_default_dtype(torch.float64)
    try:
        sigmas = interpolants.sigmas_from_times(s, direction="data_to_noise")
    finally:
        torch.set_default_dtype(torch.float32)
    sampled = sampling.sample_euler(flow, sigmas[0] * Z, sigmas, disable=True)
    torch.testing.assert_close(sampled, x, rtol=1e-12, atol=1e-12)


def test_the_shift_moves_times_as_stable_diffusion_3_does():
    s = torch.tensor([0.9, 0.5, 0.1, 0.0])
    shifted = 3 * s / (1 + 2 * s)
    expected = shifted / (1 - shifted)
    levels = interpolants.sigmas_from_times(s, direction="data_to_noise", shift=3)
    torch.testing.assert_close(levels, expected)
    # on the linear path the shift multiplies the levels
    plain = interpolants.sigmas_from_times(s, direction="data_to_noise")
    torch.testing.assert_close(levels, 3 * plain)
    torch.testing.assert_close(interpolants.sigmas_from_times(1 - s, shift=3), levels)


@pytest.mark.parametrize("direction", ["noise_to_data", "data_to_noise"])
@pytest.mark.parametrize("path", ["linear", "trig"])
def test_times_and_levels_invert_each_other(path, direction):
    options = {"path": path, "direction": direction}
    times = torch.linspace(0.01, 0.99, 9)
    sigmas = interpolants.sigmas_from_times(times, **options)
    torch.testing.assert_close(interpolants.times_from_sigmas(sigmas, **options), times)
    ends = interpolants.times_from_sigmas([0.0, math.inf], **options)
    assert ends.tolist() == ([1.0, 0.0] if direction == "noise_to_data" else [0.0, 1.0])


def test_pure_noise_needs_a_largest_level():
    with pytest.raises(ValueError, match=r"times\[0\] = 0 is pure noise.*sigma_max"):
        interpolants.sigmas_from_times([0.0, 0.5, 1.0])
    levels = interpolants.sigmas_from_times([0.0, 0.5, 1.0], sigma_max=1e4)
    assert levels.tolist() == [1e4, 1.0, 0.0]
    sampled = sampling.sample_heun(DATA, 1e4 * Z, levels.double(), disable=True)
    assert sampled.isfinite().all()


def test_times_that_are_no_times_are_refused():
    with pytest.raises(ValueError, match=r"times must be \[T \+ 1\] within \[0, 1\]"):
        interpolants.sigmas_from_times([0.5, 1.5])
    with pytest.raises(ValueError, match="sigmas must be at least 0"):
        interpolants.times_from_sigmas([-1.0])


@pytest.mark.parametrize("direction", ["noise_to_data", "data_to_noise"])
def test_float64_times_keep_their_digits(direction):
    times = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    sigmas = interpolants.sigmas_from_times(times, direction=direction)
    assert sigmas.dtype == torch.float64
    back = interpolants.times_from_sigmas(sigmas, direction=direction)
    torch.testing.assert_close(back, times, rtol=1e-14, atol=0)
    assert interpolants.sigmas_from_times(times.float(), direction=direction).dtype == torch.float32
