"""Power-function averages of weights: their widths, their decay and their inner products.

The average of gamma > -1 after t steps is the integral of p(τ) θ(τ) over 0 < τ <= t, with the profile
  p(τ) = (γ + 1) τ^γ / t^(γ+1),
where θ(τ) are the weights after step ⌈τ⌉. Its width is measured by sigma_rel, the standard deviation of the
profile divided by t:
  sigma_rel² = (γ + 1)/((γ + 2)² (γ + 3)).
One step t multiplies the average by (1 - 1/t)^(γ+1) and adds the weights for the rest. This recurrence gives the
integral above exactly, since (k/t)^(γ+1) is the share of the profile that lies below τ = k.

Source: Karras et al. 2024, arXiv 2312.02696, section 3.1 and appendix C.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float

WIDEST = ((1 + math.sqrt(5)) / 2) ** -2.5
"""The largest sigma_rel of all profiles, at which gamma = (sqrt(5) - 3)/2."""
_WIDEST_GAMMA = (math.sqrt(5) - 3) / 2


def sigma_rel_of(gamma: float) -> float:
    """Return sigma_rel, the width of the profile of gamma relative to the length of the training.

    Raises ValueError unless gamma > -1.
    """
    gamma = as_float("gamma", gamma)
    if gamma <= -1:
        raise ValueError(f"gamma must be above -1, given {gamma:g}")
    return math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))


def gamma_of(sigma_rel: float, name: str = "sigma_rel") -> float:
    """Return the largest gamma whose profile has the width sigma_rel.

    It is the largest root of the cubic γ³ + 7γ² + (16 - r)γ + 12 - r, where r = sigma_rel^(-2).

    Args:
        sigma_rel: a width above 0 and at most `WIDEST`, which is about 0.3003.
        name: the name of the argument in error messages.

    Raises:
        ValueError: a width out of range.
    """
    width = as_float(name, sigma_rel)
    if not 1e-6 <= width <= WIDEST:
        raise ValueError(f"{name} must lie within [1e-6, {WIDEST:.4f}], given {width!r}")
    target = 2 * math.log(width)
    # the width falls as gamma grows, and gamma is close to 1/sigma_rel for narrow profiles
    low, high = _WIDEST_GAMMA, 1 / width
    for _ in range(200):
        middle = low + (high - low) / 2
        if middle in (low, high):
            break
        wider = math.log1p(middle) - 2 * math.log(middle + 2) - math.log(middle + 3) > target
        low, high = (middle, high) if wider else (low, middle)
    return low


def as_widths(name: str, value: Any) -> tuple[float, ...]:
    """Return a sequence of different widths as floats. Raises TypeError or ValueError for other values."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(
            f"{name} must be a sequence of widths such as (0.05, 0.10), given {value!r}"
        )
    widths = tuple(as_float(name, width) for width in value)
    for width in widths:
        gamma_of(width, name)
    if len(set(widths)) < len(widths):
        raise ValueError(f"{name} must be different widths, given {widths}")
    return widths


def weight_at(gamma: float, step: int) -> float:
    """Return the share that the weights after step 1, 2, ... have in the average of gamma after that step."""
    # expm1 and log1p keep the digits of a share that is small after many steps
    return 1.0 if step == 1 else -math.expm1((gamma + 1) * math.log1p(-1 / step))


def inner_products(gammas: Tensor, steps: Tensor, others: Tensor, at: Tensor) -> Tensor:
    """Return the integrals of the products of profiles, [n, m] in float64.

    Args:
        gammas: [n], float64, of the profiles of the rows.
        steps: [n], float64 and positive, the steps at which they end.
        others: [m], float64, of the profiles of the columns.
        at: [m], float64 and positive, the steps at which those end.
    """
    gamma, step = gammas[:, None], steps[:, None]
    first, last = torch.minimum(step, at), torch.maximum(step, at)
    # up to the earlier end, the profile that ends later is small by this power of the ratio of the ends
    power = torch.where(step <= at, others, gamma)
    scale = (gamma + 1) * (others + 1) / ((gamma + others + 1) * last)
    return scale * (first / last).pow(power)
