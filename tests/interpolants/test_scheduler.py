"""Test sampling of a flow model against the flow-matching scheduler of diffusers."""

from __future__ import annotations

import pytest
import torch

from edmfast import sampling
from edmfast.interpolants import from_velocity, sigmas_from_times, times_from_sigmas

diffusers = pytest.importorskip("diffusers", reason="the test extra installs diffusers")


def network(x, timestep):
    """Return a smooth velocity of the noise minus the data; timestep from 0 to 1000."""
    s = timestep[:, None, None] / 1000
    return torch.tanh(x) * (1 + s) - 0.3 * x


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_follows_the_scheduler(shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(10)
    noise = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    x = noise
    for timestep in scheduler.timesteps:
        velocity = network(x, timestep.expand(3))
        x = scheduler.step(velocity, timestep, x).prev_sample
    denoiser = from_velocity(network, direction="data_to_noise", time_scale=1000)
    options = {"direction": "data_to_noise", "sigma_max": 1e6}
    sigmas = sigmas_from_times(scheduler.sigmas, **options)
    sampled = sampling.sample_euler(denoiser, sigmas[0] * noise, sigmas, disable=True)
    torch.testing.assert_close(sampled, x, rtol=1e-5, atol=1e-5)


def test_the_shift_is_that_of_the_scheduler():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    plain = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    options = {"direction": "data_to_noise", "sigma_max": 1e6}
    levels = sigmas_from_times(scheduler.sigmas, **options)
    shifted = sigmas_from_times(plain.sigmas, shift=3, **options)
    # the scheduler's times are float32, of which the level s/(1 - s) magnifies the rounding
    times = [times_from_sigmas(each, direction="data_to_noise") for each in (shifted, levels)]
    torch.testing.assert_close(*times, rtol=0, atol=1e-6)
