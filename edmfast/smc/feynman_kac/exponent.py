"""The exponent A of a target: one number, or one for every population."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

Exponent = float | Tensor


def exponent_of(target: Any, populations: int, device: torch.device) -> Exponent:
    """A as a float, or float64 [P] on the device. ValueError unless 0 < A < inf, or for another number of
    populations."""
    found = getattr(target, "exponent", 1.0)
    if isinstance(found, Tensor) and found.dim() > 0:
        if found.shape != (populations,):
            raise ValueError(
                f"the target has {tuple(found.shape)} exponents for {populations} populations: "
                "give one for each of them"
            )
        if not bool(((found > 0) & found.isfinite()).all()):
            raise ValueError(f"every exponent A must be positive and finite, got {found.tolist()}")
        return found.double().to(device)
    number = float(found)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"the target's exponent A must be positive and finite, got {number}")
    return number


def like_population(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A number as it is; numbers [P] as [P, 1, ...], to go with `like` [P, N, ...], float64."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return value.to(like.device).reshape(-1, *(1,) * (like.dim() - 1))
