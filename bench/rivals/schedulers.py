"""The schedulers of diffusers and ours with the same configurations, where diffusers is installed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.rivals.samplers import load


def pair(name: str, **settings: Any) -> tuple[Any, Any] | None:
    """Return (ours, theirs) for the name of a class of diffusers, or None where diffusers is not installed."""
    diffusers = load("diffusers")
    if diffusers is None:
        return None
    from edmfast.diffusers import EdmfastScheduler

    theirs = getattr(diffusers, name)(**settings)
    return EdmfastScheduler.from_config(theirs.config, family=name), theirs


def run(scheduler: Any, steps: int, sample: Tensor, output: Tensor) -> Tensor:
    """Return the samples after all steps of a pipeline whose network returns one kept tensor."""
    scheduler.set_timesteps(steps, device=sample.device)
    scheduler.set_begin_index(0)
    # without this, some schedulers warn that the input of the network was not scaled
    scheduler.is_scale_input_called = True
    with torch.no_grad():
        for t in scheduler.timesteps:
            sample = scheduler.step(output, t, sample, return_dict=False)[0]
    return sample
