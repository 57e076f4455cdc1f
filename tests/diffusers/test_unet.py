"""Runs with a small random UNet2DModel: the samples of all steps are those of diffusers."""

from __future__ import annotations

import pytest
import torch

from tests.diffusers.schedulers import ALL, pair, trajectory


@pytest.fixture(scope="module")
def network():
    from tests.diffusers import networks

    unet = networks.unet()
    return lambda x, t: unet(x, t).sample


@pytest.mark.parametrize("name", ALL)
def test_trajectories(network, name):
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    states = []
    with torch.no_grad():
        for scheduler in pair(name):
            scheduler.set_timesteps(6)
            start = x * float(getattr(scheduler, "init_noise_sigma", 1.0))
            states.append(trajectory(scheduler, start, model=network))
    largest = 0.0
    for expected, found in zip(*states, strict=True):
        assert expected.isfinite().all()
        largest = max(largest, expected.abs().max().item())
        assert (expected - found).abs().max().item() < 1e-5 * largest
