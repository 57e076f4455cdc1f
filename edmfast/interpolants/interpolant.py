"""Stochastic interpolants x_t = a(t) x_0 + b(t) x_1 + gamma(t) z from base samples x_0 to data x_1, 0 <= t <= 1.

path                 a                           b
linear               1 - t                       t
trig                 sqrt(1 - gamma²) cos(pi t/2)  sqrt(1 - gamma²) sin(pi t/2)
encoding-decoding    cos²(pi t) for t <= 1/2     cos²(pi t) for t > 1/2, and 0 elsewhere
mirror               0                           1
one-sided-linear     0                           t                with gamma = 1 - t
one-sided-trig       0                           sin(pi t/2)      with gamma = cos(pi t/2)

gamma                brownian sqrt(t (1 - t)), bsquared t (1 - t), sinesquared sin²(pi t), sigmoid, zero

z is N(0, I). The last three paths are one-sided: their base is Gaussian and is z itself, so that a = 0. The
product gamma gamma' has a formula of its own, because gamma' of the Brownian bridge is infinite at the ends.

Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float

ONE_SIDED = {"one-sided-linear": "linear", "one-sided-trig": "trig"}
"""The paths from noise to data that a denoiser describes, with their names in `from_velocity`."""


class Gamma(NamedTuple):
    """The factor gamma of z, its derivative, and their product, tensors of one shape."""

    value: Tensor
    dot: Tensor
    product: Tensor


class Coefficients(NamedTuple):
    """The coefficients of an interpolant at times t, float64 tensors of one shape. The suffix dot means d/dt.

    gamma_gamma_dot is finite at the ends, where gamma_dot of the Brownian bridge is not.
    """

    a: Tensor
    a_dot: Tensor
    b: Tensor
    b_dot: Tensor
    gamma: Tensor
    gamma_dot: Tensor
    gamma_gamma_dot: Tensor


def _brownian(t: Tensor) -> Gamma:
    value = (t * (1 - t)).sqrt()
    product = 0.5 - t
    return Gamma(value, product / value, product)


def _bsquared(t: Tensor) -> Gamma:
    value, dot = t * (1 - t), 1 - 2 * t
    return Gamma(value, dot, value * dot)


def _sinesquared(t: Tensor) -> Gamma:
    # the sine of pi itself is not 0 in floating point, but gamma is 0 at both ends
    value = torch.sin(math.pi * torch.minimum(t, 1 - t)).square()
    dot = math.pi * torch.sin(2 * math.pi * t)
    return Gamma(value, dot, value * dot)


def _sigmoid(t: Tensor) -> Gamma:
    steep = 10.0
    # symmetric in t, so that gamma is exactly 0 at both ends
    u = steep * (torch.minimum(t, 1 - t) - 0.5)
    start = torch.full_like(t, -0.5 * steep)
    rise, fall = torch.sigmoid(u + 1), torch.sigmoid(u - 1)
    value = rise - fall - (torch.sigmoid(start + 1) - torch.sigmoid(start - 1))
    slope = steep * (rise * (1 - rise) - fall * (1 - fall))
    dot = torch.where(t <= 0.5, slope, -slope)
    return Gamma(value, dot, value * dot)


def _zero(t: Tensor) -> Gamma:
    zero = torch.zeros_like(t)
    return Gamma(zero, zero, zero)


GAMMAS: dict[str, Callable[[Tensor], Gamma]] = {
    "brownian": _brownian,
    "bsquared": _bsquared,
    "sinesquared": _sinesquared,
    "sigmoid": _sigmoid,
    "zero": _zero,
}


def _linear(t: Tensor, gamma: Gamma) -> Coefficients:
    one = torch.ones_like(t)
    return Coefficients(1 - t, -one, t, one, *gamma)


def _trig(t: Tensor, gamma: Gamma) -> Coefficients:
    root = (1 - gamma.value.square()).clamp_min(0).sqrt()
    # gamma = 1 is a kink of the root, where the slope between its two sides is taken
    slope = torch.where(root > 0, -gamma.product / root, 0.0)
    cos, sin = torch.sin(0.5 * math.pi * (1 - t)), torch.sin(0.5 * math.pi * t)
    half = 0.5 * math.pi * root
    a, a_dot = root * cos, slope * cos - half * sin
    b, b_dot = root * sin, slope * sin + half * cos
    return Coefficients(a, a_dot, b, b_dot, *gamma)


def _encoding_decoding(t: Tensor, gamma: Gamma) -> Coefficients:
    # this sine is exactly 0 at 1/2, which the cosine of pi/2 is not
    value = torch.sin(math.pi * (0.5 - t)).square()
    dot = -math.pi * torch.sin(2 * math.pi * t)
    first = t <= 0.5
    ends = (torch.where(first, value, 0.0), torch.where(first, dot, 0.0))
    return Coefficients(*ends, torch.where(first, 0.0, value), torch.where(first, 0.0, dot), *gamma)


def _mirror(t: Tensor, gamma: Gamma) -> Coefficients:
    zero = torch.zeros_like(t)
    return Coefficients(zero, zero, torch.ones_like(t), zero, *gamma)


def _one_sided_linear(t: Tensor, _: Gamma) -> Coefficients:
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    return Coefficients(zero, zero, t, one, 1 - t, -one, t - 1)


def _one_sided_trig(t: Tensor, _: Gamma) -> Coefficients:
    zero = torch.zeros_like(t)
    cos, sin = torch.sin(0.5 * math.pi * (1 - t)), torch.sin(0.5 * math.pi * t)
    half = 0.5 * math.pi
    return Coefficients(zero, zero, sin, half * cos, cos, -half * sin, -half * sin * cos)


PATHS: dict[str, Callable[[Tensor, Gamma], Coefficients]] = {
    "linear": _linear,
    "trig": _trig,
    "encoding-decoding": _encoding_decoding,
    "mirror": _mirror,
    "one-sided-linear": _one_sided_linear,
    "one-sided-trig": _one_sided_trig,
}


@dataclass(frozen=True)
class Interpolant:
    """A stochastic interpolant x_t = a x_0 + b x_1 + gamma z between a base and the data.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797.

    Args:
        path: "linear", "trig", "encoding-decoding", "mirror", "one-sided-linear" or "one-sided-trig".
        gamma: "brownian", "bsquared", "sinesquared", "sigmoid" or "zero"; by default "brownian". The paths
            one-sided-linear and one-sided-trig have their own gamma and take none.

    Raises:
        ValueError: an unknown name, or a gamma for a path that takes none.
    """

    path: str = "linear"
    gamma: str | None = None

    def __post_init__(self) -> None:
        if self.path not in PATHS:
            raise ValueError(f"path must be one of {[*PATHS]}, given {self.path!r}")
        if self.path in ONE_SIDED:
            if self.gamma is not None:
                raise ValueError(
                    f"gamma must be None for the path {self.path!r}, whose gamma is the factor of its noise, "
                    f"given {self.gamma!r}"
                )
            return
        if self.gamma is None:
            # the dataclass is frozen, and this is still its construction
            object.__setattr__(self, "gamma", "brownian")
        if self.gamma not in GAMMAS:
            raise ValueError(f"gamma must be one of {[*GAMMAS]}, given {self.gamma!r}")

    @property
    def one_sided(self) -> bool:
        """True where the base is Gaussian and takes the place of z."""
        return self.path in ONE_SIDED or self.path == "mirror"

    def coefficients(self, t: float | Tensor) -> Coefficients:
        """Return the coefficients at times t, float64 tensors in the shape of t.

        t: a float from 0 to 1, or a tensor of such numbers, which are not checked. The results for a float are on
        the CPU and have no dimensions, so that they multiply tensors on any device.
        Raises TypeError for a t that is no number, ValueError for a float outside of [0, 1].
        """
        if not isinstance(t, Tensor):
            number = as_float("t", t, least=0, most=1)
            t = torch.full((), number, dtype=torch.float64, device="cpu")
        times = t.double()
        gamma = _zero(times) if self.gamma is None else GAMMAS[self.gamma](times)
        return PATHS[self.path](times, gamma)
