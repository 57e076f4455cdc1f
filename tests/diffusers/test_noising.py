"""Clean samples are noised as by diffusers, to levels of timesteps or of the present model call."""

from __future__ import annotations

import pytest
import torch

from tests.diffusers.schedulers import ALL, EdmfastScheduler, pair, ramp


@pytest.mark.parametrize("name", [name for name in ALL if name != "IPNDMScheduler"])
def test_noising(name):
    x, noise = ramp(), ramp(flip=True)
    found = []
    for scheduler in pair(name):
        scheduler.set_timesteps(6)
        add = scheduler.scale_noise if "Flow" in name else scheduler.add_noise
        arguments = (lambda t: (x, t, noise)) if "Flow" in name else (lambda t: (x, noise, t))
        found.append([add(*arguments(scheduler.timesteps[[0, 2, 4, 4]]))])
        if name != "DDIMScheduler":
            scheduler.set_begin_index(2)
            found[-1].append(add(*arguments(scheduler.timesteps[:4])))
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)


def test_velocities_of_training():
    x, noise, t = ramp(), ramp(flip=True), torch.tensor([0, 10, 500, 999])
    theirs, ours = pair("DDIMScheduler")
    torch.testing.assert_close(ours.get_velocity(x, noise, t), theirs.get_velocity(x, noise, t))
    with pytest.raises(ValueError, match="DDIMScheduler"):
        EdmfastScheduler("HeunDiscreteScheduler").get_velocity(x, noise, t)
