"""One-sided paths x_t = a(t) noise + b(t) data, and the convention in which a velocity network states its time.

linear   a = 1 - t,          b = t             (rectified flow, flow matching)
trig     a = cos(pi t / 2),  b = sin(pi t / 2)

The noise is N(0, I), and t runs from 0 (noise) to 1 (data). In VE notation the state x_t / b = data + sigma noise
has the noise level sigma = a/b. A velocity v = E[a' noise + b' data | x_t], where ' is d/dt, and the denoised
states D = E[data | x_t] follow from each other:

    D = (a v - a' x_t)/w,    v = b' D + a' (x_t - b D)/a,    w = a b' - a' b.

w is 1 for the linear path and pi/2 for the other one, so that D needs no division by a small number.
Sources: Liu et al. 2022, arXiv 2209.03003; Lipman et al. 2022, arXiv 2210.02747; Albergo, Boffi and Vanden-Eijnden
2023, arXiv 2303.08797.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float

DIRECTIONS = ("noise_to_data", "data_to_noise")


class Point(NamedTuple):
    """The coefficients of a one-sided path at times t, tensors of one shape; a_dot and b_dot are d/dt."""

    t: Tensor
    a: Tensor
    b: Tensor
    a_dot: Tensor
    b_dot: Tensor


@dataclass(frozen=True)
class OneSidedPath:
    """The coefficients of a path by time and by noise level.

    wronskian: a b' - a' b, which is constant on both paths.
    """

    name: str
    wronskian: float
    at_time: Callable[[Tensor], Point]
    at_level: Callable[[Tensor], Point]


def _linear(t: Tensor, a: Tensor, b: Tensor) -> Point:
    one = torch.ones_like(t)
    return Point(t, a, b, -one, one)


def _linear_at_level(sigma: Tensor) -> Point:
    # the reciprocals give the limits at the levels 0 and infinity too
    t = 1 / (1 + sigma)
    return _linear(t, 1 / (1 + 1 / sigma), t)


def _trig(t: Tensor, a: Tensor, b: Tensor) -> Point:
    return Point(t, a, b, -0.5 * math.pi * b, 0.5 * math.pi * a)


def _trig_at_time(t: Tensor) -> Point:
    # a sine of the distance to the end is 0 there, which a cosine of pi/2 is not
    return _trig(t, torch.sin(0.5 * math.pi * (1 - t)), torch.sin(0.5 * math.pi * t))


def _trig_at_level(sigma: Tensor) -> Point:
    one = torch.ones_like(sigma)
    t = torch.atan2(one, sigma) * (2 / math.pi)
    return _trig(t, 1 / torch.hypot(one, 1 / sigma), 1 / torch.hypot(one, sigma))


PATHS = {
    "linear": OneSidedPath("linear", 1.0, lambda t: _linear(t, 1 - t, t), _linear_at_level),
    "trig": OneSidedPath("trig", 0.5 * math.pi, _trig_at_time, _trig_at_level),
}
"""The one-sided paths by name."""


def path_named(name: str) -> OneSidedPath:
    """Return a one-sided path. Raises ValueError for an unknown name."""
    if name not in PATHS:
        raise ValueError(f"path must be one of {[*PATHS]}, given {name!r}")
    return PATHS[name]


@dataclass(frozen=True)
class Convention:
    """The path of a velocity network, the direction of its time, and the factor on the time that it receives."""

    path: str
    direction: str
    time_scale: float

    @property
    def reversed(self) -> bool:
        """True where the network's time runs from data to noise."""
        return self.direction == "data_to_noise"

    def network_time(self, t: Tensor) -> Tensor:
        """Return the times that the network receives for times t from noise (0) to data (1)."""
        forward = 1 - t if self.reversed else t
        return forward * self.time_scale

    def path_time(self, time: Tensor) -> Tensor:
        """Return times from noise (0) to data (1) for the times that the network receives."""
        forward = time / self.time_scale
        return 1 - forward if self.reversed else forward


def convention_of(path: str, direction: str, time_scale: float) -> Convention:
    """Return the convention of a network. Raises TypeError or ValueError for arguments that are not accepted."""
    path_named(path)
    check_direction(direction)
    return Convention(path, direction, as_float("time_scale", time_scale, positive=True))


def check_direction(direction: str) -> None:
    """Raise ValueError for a direction of time that is not known."""
    if direction not in DIRECTIONS:
        raise ValueError(
            f"direction must be one of {[*DIRECTIONS]}, given {direction!r}: rectified flow and stochastic "
            "interpolants go from noise to data, Stable Diffusion 3 and Flux from data to noise"
        )
