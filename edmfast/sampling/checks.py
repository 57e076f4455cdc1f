"""Checks at the start and at the end of a sampler.

x is [B, *shape]. The levels sigmas [T + 1] decrease strictly and may end in 0; the solvers of the ODE also take
levels that increase strictly from a positive level. Such a run turns a sample into noise. The levels are read into
Python floats once, at the start, so that a step on an accelerator never waits for the host.
"""

from __future__ import annotations

import math
import warnings

from torch import Tensor

from edmfast._internal.derivatives import carries_tangent
from edmfast._internal.noise_levels import check_order, check_squares


class NonFiniteWarning(UserWarning):
    """Warning that some samples of a plain sampler are NaN or infinite."""


def checked_end(x: Tensor) -> Tensor:
    """Return the result of a sampler. Warns where it is not finite. The check is made once, at the end."""
    # A check at every step would wait for the device every time.
    if not is_finite(x):
        bad = int((~x.isfinite()).flatten(1).any(1).sum())
        warnings.warn(
            f"{bad} of {len(x)} samples are not finite: the model returned NaN or infinity on the way",
            NonFiniteWarning,
            stacklevel=4,
        )
    return x


def is_finite(x: Tensor) -> bool:
    """Return whether all numbers of x are finite."""
    # The sum shows NaN and infinities, and is much quicker on the CPU. It may also overflow by itself.
    return math.isfinite(float(x.sum())) or bool(x.isfinite().all())


def check_start(
    x: Tensor, sigmas: Tensor, *, rising: bool = True, repeated: bool = False
) -> list[float]:
    """Check the start of a sampler and return the levels as Python floats.

    rising: the sampler also takes levels that increase strictly.
    repeated: the last positive level of three or more may be there twice, as some projects' grids have it.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor.
        ValueError: x is not [B, *shape], or it is not finite. Or sigmas is not [T + 1] with T >= 1, it has a level
            that is negative, not finite, or has a square that does not fit the dtype of x, or its levels do not
            decrease strictly. With `rising`, levels may also increase strictly from a positive level.
        RuntimeError: sigmas carries a forward-mode tangent, which would be lost.
    """
    check_state(x, "x")
    if not isinstance(sigmas, Tensor) or not sigmas.is_floating_point():
        raise TypeError(f"sigmas must be a floating-point tensor [T + 1], got {_kind(sigmas)}")
    if sigmas.ndim != 1 or len(sigmas) < 2:
        advice = (
            ": a step goes from one level to the next, so pass the level of x and the one to reach, such as 0"
            if sigmas.ndim == 1
            else ""
        )
        raise ValueError(
            f"sigmas must be [T + 1] with T >= 1, got shape {tuple(sigmas.shape)}{advice}"
        )
    # The levels become Python floats below, which would drop the tangent without an error.
    if carries_tangent(sigmas):
        raise RuntimeError(
            "samplers have no derivative with respect to sigmas, which carry a tangent: detach them"
        )
    # Read once, so that a step never waits for the device.
    levels: list[float] = sigmas.tolist()
    for i, sigma in enumerate(levels):
        if not math.isfinite(sigma) or sigma < 0:
            raise ValueError(f"sigmas must be finite and >= 0, got sigmas[{i}] = {sigma}")
    check_squares(levels, x.dtype)
    check_order(_without_repetition(levels) if repeated else levels, rising=rising)
    return levels


def _without_repetition(levels: list[float]) -> list[float]:
    """Return decreasing levels with the last positive one once, where it is there twice."""
    ends = levels[-1] == 0
    *before, last = levels[:-1] if ends else levels
    if len(before) > 1 and before[0] > before[-1] == last > 0:
        return [*before, 0.0] if ends else before
    return levels


def check_state(x: Tensor, name: str) -> None:
    """Raise TypeError or ValueError unless x is a finite floating-point tensor [B, *shape]."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor [B, *shape], got {_kind(x)}")
    if x.ndim < 2:
        raise ValueError(
            f"{name} must be [B, *shape] with a batch axis and at least one more, got {tuple(x.shape)}"
        )
    if not is_finite(x):
        raise ValueError(f"{name} must be finite, got NaN or infinity in it")


def _kind(value: object) -> str:
    return f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__
