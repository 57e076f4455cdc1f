"""Loops over schedulers of diffusers and ours, with the test model of diffusers: output = x t / (t + 1)."""

from __future__ import annotations

import inspect

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="its schedulers are what ours must equal")

# the line above skips the tests where diffusers, which this import needs, is absent
from edmfast.diffusers import EdmfastScheduler  # noqa: E402

ALL = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "EDMEulerScheduler",
    "EDMDPMSolverMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "DDIMScheduler",
    "IPNDMScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
# These cast their samples to float32, so in float64 they are right to single precision only.
SINGLE = {
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "EDMEulerScheduler",
    "DPMSolverMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
}


def ramp(dtype=torch.float32, flip=False):
    """Return the deterministic samples of diffusers' tests, [4, 3, 8, 8], or its deterministic noise."""
    count = 4 * 3 * 8 * 8
    values = torch.arange(count)
    values = values.flip(-1) if flip else values
    return (values.reshape(3, 8, 8, 4) / count).permute(3, 0, 1, 2).to(dtype)


def toy_model(x, t):
    t = torch.as_tensor(t, dtype=torch.float64).to(x.dtype)
    return x * t / (t + 1)


def pair(name, **config):
    """Return a scheduler of diffusers, and ours with its configuration."""
    theirs = getattr(diffusers, name)(**config)
    return theirs, EdmfastScheduler.from_config({**theirs.config, "_class_name": name})


def in_double(scheduler, name):
    """Let a scheduler of diffusers compute its coefficients in float64, from the same levels."""
    for attribute in ("sigmas", "alphas_cumprod", "betas", "alphas", "final_alpha_cumprod"):
        if hasattr(scheduler, attribute):
            setattr(scheduler, attribute, getattr(scheduler, attribute).double())
    if "KDPM2" in name:
        levels = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1:-1:2]])
        _middle_in_double(scheduler, levels, "Ancestral" in name)


def _middle_in_double(scheduler, levels, ancestral):
    start, end, zero = levels[:-1], levels[1:], levels.new_zeros(1)
    if not ancestral:
        middle = (start * end).sqrt()
        scheduler.sigmas_interpol = _repeated(torch.cat([middle[:1], middle]))
        return
    up, down = (end**2 * (start**2 - end**2) / start**2).sqrt(), end**2 / start
    middle = torch.cat([(start * down).sqrt(), zero])
    middle[-2:] = 0
    scheduler.sigmas_interpol = _repeated(middle)
    scheduler.sigmas_up, scheduler.sigmas_down = (
        _repeated(torch.cat([values, zero])) for values in (up, down)
    )


def _repeated(values):
    return torch.cat([values[:1], values[1:].repeat_interleave(2), values[-1:]])


def trajectory(scheduler, x, begin=0, model=toy_model, generator=None, scaled=False, **options):
    """Return the samples after each step. scaled: step from the scaled input, as some tests of diffusers do."""
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = generator or torch.Generator().manual_seed(0)
    if begin:
        scheduler.set_begin_index(begin)
    states = []
    for t in scheduler.timesteps[begin:]:
        scale = getattr(scheduler, "scale_model_input", lambda sample, _: sample)
        entered = scale(x, t)
        x = entered if scaled else x
        x = scheduler.step(model(entered, t), t, x, **options).prev_sample
        states.append(x)
    return states


def difference(name, steps, *, dtype=torch.float32, double=False, begin=0, options=None, **config):
    """Return the largest difference of two trajectories, in units of the largest sample so far."""
    theirs, ours = pair(name, **config)
    theirs.set_timesteps(steps)
    ours.set_timesteps(steps)
    if double:
        in_double(theirs, name)
    x = ramp(dtype) * float(getattr(theirs, "init_noise_sigma", 1.0))
    runs = [trajectory(scheduler, x, begin, **(options or {})) for scheduler in (theirs, ours)]
    largest, worst = x.abs().max().item(), 0.0
    assert len(runs[0]) == len(runs[1])
    for expected, found in zip(*runs, strict=True):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        largest = max(largest, expected.abs().max().item())
        worst = max(worst, (expected.double() - found.double()).abs().max().item() / largest)
    return worst
