"""The numbers that the methods of a scheduler take may be of any kind of number, and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.diffusers.schedulers import EdmfastScheduler, pair, ramp

NUMBERS = (1, np.float32(1.0), np.int64(1), torch.tensor(1.0), np.array(1.0))
NONE = ("1", None, True, [1.0], torch.ones(2), torch.Generator())
CHURN = {"s_churn": 1.0, "s_tmin": 1.0, "s_tmax": 1.0, "s_noise": 1.0}
OF_STEPS = [("DDIMScheduler", "eta"), *(("EulerDiscreteScheduler", name) for name in CHURN)]


def stepped(name, **options):
    scheduler = EdmfastScheduler(name)
    scheduler.set_timesteps(4)
    x, t = ramp(), scheduler.timesteps[0]
    return scheduler.step(x, t, x, generator=torch.Generator().manual_seed(0), **options)[0]


@pytest.mark.parametrize(("name", "argument"), OF_STEPS)
def test_numbers_of_a_step(name, argument):
    others = {} if argument == "eta" else {"s_churn": 1.0}
    expected = stepped(name, **{**others, argument: 1.0})
    for number in NUMBERS:
        assert torch.equal(expected, stepped(name, **{**others, argument: number}))
    for wrong in NONE:
        with pytest.raises(TypeError, match=f"{argument} must be a real number"):
            stepped(name, **{argument: wrong})


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_a_generator_without_its_name_is_not_taken_for_eta(name):
    scheduler, x = EdmfastScheduler(name), ramp()
    scheduler.set_timesteps(4)
    t = scheduler.timesteps[0]
    with pytest.raises(TypeError, match=r"eta must be a real number, got .*Generator"):
        scheduler.step(x, t, x, torch.Generator())


def test_numbers_of_set_timesteps():
    scheduler = EdmfastScheduler("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True)
    scheduler.set_timesteps(4, mu=1.0)
    expected = scheduler.sigmas
    for number in NUMBERS:
        scheduler.set_timesteps(4, mu=number)
        assert torch.equal(expected, scheduler.sigmas)
    for wrong in NONE[:1] + NONE[2:]:
        with pytest.raises(TypeError, match="mu must be a real number"):
            scheduler.set_timesteps(4, mu=wrong)
    for wrong in ("4", 4.0, True, [4]):
        with pytest.raises(TypeError, match="num_inference_steps must be an integer"):
            scheduler.set_timesteps(wrong, mu=1.0)
    euler = EdmfastScheduler("EulerDiscreteScheduler")
    for argument in ("timesteps", "sigmas"):
        for bad in (["5", 0.0], [None], [True]):
            with pytest.raises(TypeError, match=rf"{argument}\[0\]|{argument} must be"):
                euler.set_timesteps(**{argument: bad})
        for good in ([5.0, 0.0], np.array([5.0, 0.0]), torch.tensor([5.0, 0.0])):
            euler.set_timesteps(**{argument: good})


def test_numbers_of_set_shift_and_set_begin_index():
    theirs, ours = pair("FlowMatchEulerDiscreteScheduler")
    theirs.set_shift(3.0)
    theirs.set_timesteps(5)
    for number in (3, np.float32(3.0), torch.tensor(3.0)):
        ours.set_shift(number)
        assert ours.shift == theirs.shift == 3.0
        ours.set_timesteps(5)
        assert torch.equal(ours.sigmas, theirs.sigmas)
        assert torch.equal(ours.timesteps, theirs.timesteps)
    for wrong in ("3", None, True):
        with pytest.raises(TypeError, match="shift must be a real number"):
            ours.set_shift(wrong)
    with pytest.raises(ValueError, match="shift must be positive"):
        ours.set_shift(0.0)
    ours.set_begin_index(np.int64(2))
    assert ours.begin_index == 2
    for wrong, error in (("2", TypeError), (2.0, TypeError), (-1, ValueError)):
        with pytest.raises(error, match="begin_index must be an integer"):
            ours.set_begin_index(wrong)
