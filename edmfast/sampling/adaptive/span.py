"""The range of noise levels of a run without a grid, as times t = -ln sigma, and the callback of such a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float
from edmfast.sampling.callbacks import Callback
from edmfast.sampling.checks import check_state


def times_of(x: Tensor, sigma_min: float, sigma_max: float) -> tuple[Tensor, Tensor]:
    """Return the times -ln sigma of the first and the last level, in torch's default dtype as in k-diffusion."""
    check_state(x, "x")
    sigma_min = as_float("sigma_min", sigma_min, positive=True)
    sigma_max = as_float("sigma_max", sigma_max, positive=True)
    check_level("sigma_min", sigma_min, x.dtype)
    check_level("sigma_max", sigma_max, x.dtype)
    # On the CPU whatever the default device is, so that no step waits for an accelerator.
    first, last = (-torch.tensor(level, device="cpu").log() for level in (sigma_max, sigma_min))
    return first, last


def with_levels(callback: Callback | None, x: Tensor) -> Callable[[dict[str, Any]], Any] | None:
    """Return a callback that gives the levels of the times t and t_up too, all of them on the device of x."""
    if callback is None:
        return None

    def report(seen: dict[str, Any]) -> None:
        times = {name: seen[name].to(x.device, copy=True) for name in ("t", "t_up")}
        levels = {"sigma": times["t"].neg().exp(), "sigma_hat": times["t_up"].neg().exp()}
        callback({**levels, **seen, **times})

    return report
