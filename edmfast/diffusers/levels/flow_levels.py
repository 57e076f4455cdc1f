"""The levels of flow models, whose states are (1 - sigma) x_0 + sigma eps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edmfast.diffusers.levels.curves import (
    Array,
    curve_of,
    dynamically_shifted,
    on_curve,
    shifted,
    stretched,
)


def falling(count: int, train: int, shift: float) -> tuple[Array, Array]:
    """Return (sigmas, timesteps) of the DPM-Solver and DEIS schedulers, float64 [count]."""
    sigmas = 1.0 - np.linspace(1, 1 / train, count + 1)
    sigmas = np.flip(shifted(sigmas, shift))[:-1].copy()
    return sigmas, sigmas * train


def unipc(settings: Mapping[str, Any], count: int, given: Any, mu: float | None) -> Array:
    """Return the levels of `UniPCMultistepScheduler` without its curves, float64 [count]."""
    if given is None:
        sigmas = np.linspace(1, 1 / settings["num_train_timesteps"], count + 1)[:-1]
    else:
        sigmas = np.array(given)
    if settings["use_dynamic_shifting"]:
        assert mu is not None
        sigmas = dynamically_shifted(sigmas, mu, settings["time_shift_type"])
    else:
        sigmas = shifted(sigmas, settings["flow_shift"])
    if settings["shift_terminal"]:
        sigmas = stretched(sigmas, settings["shift_terminal"])
    # At the level 1 there is no signal, and the half log-SNR is infinite.
    if abs(sigmas[0] - 1) < 1e-6:
        sigmas[0] -= 1e-6
    return sigmas


def untrained(settings: Mapping[str, Any]) -> Tensor:
    """Return the levels of all timesteps of `FlowMatchEulerDiscreteScheduler`, float32 and falling."""
    train, shift = settings["num_train_timesteps"], settings["shift"]
    sigmas: Tensor = (
        torch.from_numpy(np.linspace(1, train, train, dtype=np.float32)[::-1].copy()) / train
    )
    if settings["use_dynamic_shifting"]:
        return sigmas
    levels: Tensor = shift * sigmas / (1 + (shift - 1) * sigmas)
    return levels


def flow_match(
    settings: Mapping[str, Any],
    count: int | None,
    given: Any,
    timesteps: Any,
    mu: float | None,
    shift: float,
) -> tuple[Tensor, Tensor]:
    """Return (timesteps, sigmas) of `FlowMatchEulerDiscreteScheduler`, float32."""
    train = settings["num_train_timesteps"]
    sizes = {len(values) for values in (given, timesteps) if values is not None}
    if len(sizes | ({count} - {None})) > 1:
        raise ValueError(
            "sigmas, timesteps and num_inference_steps differ in length: "
            f"{None if given is None else len(given)}, {None if timesteps is None else len(timesteps)}, {count}"
        )
    shown = None if timesteps is None else np.array(timesteps).astype(np.float32)
    if given is not None:
        sigmas = np.array(given).astype(np.float32)
    elif shown is not None:
        sigmas = shown / train
    else:
        ends = untrained(settings)[[0, -1]].tolist()
        sigmas = np.linspace(ends[0] * train, ends[1] * train, count or 0) / train
    if settings["use_dynamic_shifting"]:
        assert mu is not None
        sigmas = dynamically_shifted(sigmas, mu, settings["time_shift_type"])
    else:
        sigmas = shifted(sigmas, shift)
    if settings["shift_terminal"]:
        sigmas = stretched(sigmas, settings["shift_terminal"])
    curve = curve_of(settings)
    if curve is not None:
        sigmas = on_curve(curve, sigmas, len(sigmas), settings)
    levels = torch.from_numpy(sigmas).float()
    moments = levels * train if shown is None else torch.from_numpy(shown)
    if settings["invert_sigmas"]:
        levels = 1.0 - levels
        return levels * train, torch.cat([levels, levels.new_ones(1)])
    return moments, torch.cat([levels, levels.new_zeros(1)])
