"""The number of the model call that a timestep belongs to."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def value_of(timestep: Any, timesteps: Tensor, values: list[float]) -> float:
    """Return the number that a timestep is.

    A timestep on an accelerator is nearly always an element of `timesteps`. Its place in memory tells which one,
    so that nothing waits for the accelerator.
    """
    if isinstance(timestep, Tensor) and not timestep.is_cpu:
        own = timesteps.untyped_storage().data_ptr() == timestep.untyped_storage().data_ptr()
        if own and timestep.dtype == timesteps.dtype and timestep.numel() == 1:
            return values[timestep.storage_offset()]
    value: float = timestep.item() if isinstance(timestep, Tensor) else float(timestep)
    return value


def place_of(value: float, values: list[float], last_if_missing: bool) -> int:
    """Return the number of the call with a timestep.

    Where two calls have the same timestep, it is the second one, as in diffusers: the first belongs to a step that
    began earlier.

    Raises:
        ValueError: no call has this timestep.
    """
    places = [place for place, other in enumerate(values) if other == value]
    if not places and last_if_missing:
        return len(values) - 1
    if not places:
        raise ValueError(f"timestep must be one of scheduler.timesteps, got {value}")
    return places[1] if len(places) > 1 else places[0]
