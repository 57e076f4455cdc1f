"""Noise samplers of other projects: functions (sigma, sigma_next) -> standard normals like the states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from edmfast.models.calling.foreign import name_of

NoiseSampler = Callable[..., Tensor]
"""A function (sigma, sigma_next) -> standard normals like the states."""


def checked(noise: NoiseSampler, x: Tensor) -> NoiseSampler:
    """Return `noise` with a check of its results. It gets copies of its arguments, which it may change.

    The function that is returned raises TypeError where `noise` returns no tensor, and ValueError where it returns
    another shape or device than those of x, or numbers that are not floating point.
    """

    def draw(*levels: Any) -> Tensor:
        copies = (level.clone() if isinstance(level, Tensor) else level for level in levels)
        return like_states(noise(*copies), noise, x)

    return draw


def like_states(normals: Any, noise: NoiseSampler, x: Tensor) -> Tensor:
    if not isinstance(normals, Tensor):
        raise TypeError(
            f"the noise must be a tensor like x, {name_of(noise)} returned a {type(normals).__name__}"
        )
    like_x = normals.shape == x.shape and normals.device == x.device
    if not like_x or not normals.is_floating_point():
        raise ValueError(
            f"the noise must be floating {[*x.shape]} on {x.device} like x: {name_of(noise)} returned "
            f"{normals.dtype} {[*normals.shape]} on {normals.device}"
        )
    return normals.to(x.dtype)
