"""The gradients that tilts add to scores, and the block that detaches them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from torch import Tensor

from edmfast._internal.derivatives import values_and_slope
from edmfast.models.calling.second_order import second_derivatives

# Another thread may record its tilts while this one probes a curvature.
_thread = threading.local()


@contextlib.contextmanager
def detached_tilts() -> Iterator[None]:
    """Detach the additions of tilts to scores within the block, in this thread.

    Probes of the curvature need this: with the additions they would need third derivatives of networks.
    """
    before = _are_detached()
    _thread.detached = True
    try:
        yield
    finally:
        _thread.detached = before


def values_and_tilt_gradient(
    function: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor, recorded: bool
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return (the values of function(x), the gradient of the sum of its first value with respect to x).

    recorded: both are differentiable, but within `detached_tilts` the gradient is detached.
    """
    with second_derivatives():
        return values_and_slope(function, x, recorded, cut=_are_detached())


def check_gradient(reward: Tensor) -> Tensor:
    """Return a computed reward. Raises ValueError where it has no gradient."""
    if not reward.requires_grad:
        raise ValueError("this reward has no gradient: use gradient='none'")
    return reward


def _are_detached() -> bool:
    return getattr(_thread, "detached", False)
