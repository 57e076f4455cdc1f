"""The levels of a step on the device of a run, as operators take them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from edmfast.smc.proposals import Step


def with_levels(step: Step, device: torch.device) -> Step:
    """Return a step of plain numbers with its levels on a device, which a run calls before it starts."""
    levels = torch.tensor([step.s, step.u], dtype=torch.float64, device="cpu").to(device)
    return dataclasses.replace(step, levels=levels)


def levels_of(step: Step, device: torch.device) -> Tensor:
    """Return the levels (s, u) of a step, float64 [2] on a device: those prepared before the run, or new ones."""
    if step.levels is not None:
        return step.levels
    levels = [torch.as_tensor(level).double() for level in (step.s, step.u)]
    return torch.stack(levels).to(device)
