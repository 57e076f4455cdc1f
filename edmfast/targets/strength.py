"""The strength lambda(sigma) of a tilt: a number, one number per population, or a function of the noise level.

A ramp (sigma_hi, sigma_lo) lets the strength grow along a run: lambda is 0 above sigma_hi, grows linearly in
ln(sigma) below it, and keeps its final value from sigma_lo down to 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float, as_pair
from edmfast.models.calling.foreign import name_of
from edmfast.targets.exponents import Exponent

Strength = Exponent | Callable[[float | Tensor], float | Tensor]

DEFAULT_RAMP = (2.0, 0.1)
"""Two noise levels in units of x. The modes of data with a standard deviation of 1 separate between them."""

_LEAST_WIDTH = 1e-12


def as_ramp(ramp: tuple[float, float]) -> tuple[float, float]:
    """Return the ramp as two floats. Raises TypeError or ValueError unless it is (sigma_hi, sigma_lo) with
    sigma_hi >= sigma_lo > 0."""
    high, low = (as_float("ramp", level) for level in as_pair("ramp", ramp))
    if not 0 < low <= high:
        raise ValueError(
            f"ramp must be (sigma_hi, sigma_lo), decreasing and positive, given {ramp}"
        )
    return high, low


def share_of_strength(ramp: tuple[float, float] | None, sigma: float | Tensor) -> float | Tensor:
    """Return lambda(sigma) divided by the full strength, from 0 to 1. Without a ramp it is 1.

    The result is a float, or a float64 tensor like sigma.
    """
    if ramp is None:
        return 1.0
    high, low = map(math.log, ramp)
    # A ramp without a width is a step; the least width avoids a division by zero.
    width = max(high - low, _LEAST_WIDTH)
    if isinstance(sigma, Tensor):
        # In float64, so that a tensor and a float of one level give the same share.
        return ((high - sigma.double().log()) / width).clamp(0, 1)
    level = as_float("sigma", sigma, least=0)
    # log 0 does not exist, and below any ramp the strength is whole.
    return 1.0 if level == 0 else min(1.0, max(0.0, (high - math.log(level)) / width))


def scheduled_strength(
    schedule: Callable[[float | Tensor], float | Tensor], sigma: float | Tensor
) -> float | Tensor:
    """Return lambda(sigma) of the caller's function: a number, [] or a tensor like sigma.

    The function gets a copy of sigma, because it may change its argument. Raises ValueError for another shape.
    """
    strength = schedule(sigma.clone() if isinstance(sigma, Tensor) else sigma)
    if not isinstance(strength, Tensor) or strength.dim() == 0:
        return strength
    shape = sigma.shape if isinstance(sigma, Tensor) else ()
    # A function may return [1] for a single level, and that number is meant for all rows.
    if strength.numel() == 1 and len(shape) == 0:
        return strength.reshape(())
    if strength.shape != shape:
        raise ValueError(
            f"a strength must return a number, [] or a tensor like sigma, {[*shape]}: {name_of(schedule)} "
            f"returned {[*strength.shape]}"
        )
    return strength


def strength_times_reward(strength: float | Tensor, reward: Tensor) -> Tensor:
    """Return lambda r like the reward. It is 0 where lambda is 0, even for an infinite reward."""
    if not isinstance(strength, Tensor):
        return strength * reward if strength else torch.zeros_like(reward)
    factor = strength.to(reward.dtype)
    # 0 times an infinite reward would be NaN, and comparing the number on the host would wait for
    # the device.
    return torch.where(factor == 0, 0.0, factor * reward)
