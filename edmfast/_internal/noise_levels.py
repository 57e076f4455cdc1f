"""Check the noise levels sigmas [T + 1] of samplers and runs, in units of x."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float

LEVEL_SLACK = 1 + 1e-6
"""The factor by which a noise level may exceed a bound because of rounding."""


def as_noise_levels(sigmas: Tensor | Sequence[float], *, last_zero: bool = True) -> list[float]:
    """Return noise levels as floats: finite, strictly decreasing, and at least two of them positive.

    last_zero: accept a last level 0 after the positive ones.

    Raises:
        TypeError: sigmas is neither a tensor nor a sequence of real numbers.
        ValueError: the levels are not as above.
    """
    if isinstance(sigmas, Tensor):
        sigmas = sigmas.tolist()
    if not isinstance(sigmas, Iterable):
        raise TypeError(f"sigmas must be a tensor or a sequence of levels, got {sigmas!r}")
    levels = [as_float(f"sigmas[{i}]", sigma) for i, sigma in enumerate(sigmas)]
    check_order(levels)
    positive = levels[:-1] if last_zero and levels and levels[-1] == 0 else levels
    if len(positive) < 2 or positive[-1] <= 0:
        end = ", of which the last may be followed by 0" if last_zero else ""
        raise ValueError(f"sigmas must be at least two positive levels{end}, got {levels}")
    return levels


def check_level(name: str, level: float, dtype: torch.dtype = torch.float64) -> None:
    """Raise ValueError where the square of a positive noise level overflows or vanishes in dtype.

    Every formula of a diffusion squares the level, and such a square would give a wrong number without an error.
    For float16 the level itself must fit, because networks in float16 square it in float32.
    """
    # Below the smallest normal number digits are lost, and some devices flush to 0.
    numbers = torch.finfo(dtype)
    is_half = dtype == torch.float16
    lowest = numbers.smallest_normal if is_half else math.sqrt(numbers.smallest_normal)
    highest = numbers.max if is_half else math.sqrt(numbers.max)
    if not lowest <= level <= highest:
        raise ValueError(
            f"{name} must be from {lowest:.2g} to {highest:.2g}, where its square fits {dtype}, got {level:g}"
        )


def check_order(levels: Sequence[float], *, rising: bool = False) -> None:
    """Raise ValueError unless levels decrease strictly, or increase strictly from a positive level if `rising`."""
    upwards = rising and levels[1] > levels[0]
    for i, (sigma, following) in enumerate(itertools.pairwise(levels)):
        if following > sigma if upwards else following < sigma:
            continue
        accepted = "decrease strictly (only the last may be 0)"
        if rising:
            accepted += " or increase strictly from a positive level"
        raise ValueError(
            f"sigmas must {accepted}, got sigmas[{i}] = {sigma}, sigmas[{i + 1}] = {following}"
        )
    if upwards and levels[0] == 0:
        raise ValueError(
            "sigmas that increase must start above 0, because the slope (x - D)/sigma divides by the "
            f"level: replace sigmas[0] = 0 by a small level, below sigmas[1] = {levels[1]}"
        )


def check_squares(levels: Sequence[float], dtype: torch.dtype = torch.float64) -> None:
    """Raise ValueError unless the square of every positive level fits the dtype of the states."""
    for i, level in enumerate(levels):
        if level > 0:
            check_level(f"sigmas[{i}]", level, dtype)
