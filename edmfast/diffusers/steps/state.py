"""The state that the parts of a scheduler share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edmfast.diffusers.coordinates import Frame
from edmfast.diffusers.families import Family
from edmfast.diffusers.levels.grids import Grid

# A timestep that is none of the run's belongs to its last call.
MISSING_IS_LAST = {
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
}


class State:
    """The state of a scheduler.

    timesteps: those of the model calls. sigmas: the noise levels, or None for DDIM. num_inference_steps: the
    number of steps, or None before `set_timesteps`.
    """

    timesteps: Tensor
    sigmas: Any
    num_inference_steps: int | None
    _family: Family
    _settings: dict[str, Any]
    _frame: Frame
    _grid: Grid
    _begin_index: int | None
    _step_index: int | None
