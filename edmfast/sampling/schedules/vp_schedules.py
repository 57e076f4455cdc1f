"""Variance-preserving noise schedules: the noise level as a function of time, and its inverse.

A variance-preserving process has x_t = alpha_t x_0 + sqrt(1 - alpha_t²) eps. Divided by alpha_t it is a state of
the noise level sigma(t) = sqrt(1 - alpha_t²) / alpha_t, on which all solvers work. Sources: Song et al. 2021,
arXiv 2011.13456 (linear); Nichol and Dhariwal 2021, arXiv 2102.09672 (cosine).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edmfast._internal.numbers import as_float

LEAST_LOG_SNR = -5.1
"""The smallest ln(alpha / sqrt(1 - alpha²)) of a discrete schedule; noisier levels are left out."""


class VPSchedule:
    """The base class of variance-preserving schedules: sigma as a function of time, and its inverse.

    A subclass defines `log_alpha` and its inverse. Times have no unit, and tensors of times and levels have any
    shape. Source: Song et al. 2021, arXiv 2011.13456.

    Attributes:
        last_time: the time at which the grids begin.

    Raises:
        NotImplementedError: a use of this class itself.
    """

    last_time: float = 1.0

    def sigma(self, time: Tensor) -> Tensor:
        """Return the noise levels at times, in units of x and float64, of the shape of time."""
        # expm1 keeps the digits at small times, where 1 - alpha² cancels.
        return torch.expm1(-2 * self.log_alpha(time)).sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        """Return the times of noise levels in units of x, in float64, of the shape of sigma."""
        return self._time_of(-0.5 * torch.log1p(sigma.to(torch.float64) ** 2))

    def log_alpha(self, time: Tensor) -> Tensor:
        """Return ln alpha at times, in float64, of the shape of time."""
        raise NotImplementedError

    def _time_of(self, log_alpha: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class LinearVP(VPSchedule):
    """The schedule whose rate beta(t) rises linearly over times from 0 to 1.

    ln alpha_t = -(beta_max - beta_min) t² / 4 - beta_min t / 2. Source: Song et al. 2021, arXiv 2011.13456.

    Args:
        beta_min: the rate at t = 0, positive.
        beta_max: the rate at t = 1, above beta_min.

    Raises:
        TypeError: a rate that is no number.
        ValueError: a rate that is not positive and finite, or beta_max that does not exceed beta_min.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        low = as_float("beta_min", self.beta_min, positive=True)
        high = as_float("beta_max", self.beta_max, positive=True)
        if high <= low:
            raise ValueError(f"beta_max must exceed beta_min, got {low} and {high}")
        object.__setattr__(self, "beta_min", low)
        object.__setattr__(self, "beta_max", high)

    def log_alpha(self, time: Tensor) -> Tensor:
        time = time.to(torch.float64)
        return -(self.beta_max - self.beta_min) / 4 * time**2 - self.beta_min / 2 * time

    def _time_of(self, log_alpha: Tensor) -> Tensor:
        # The root of the quadratic equation in the form that does not cancel at small times.
        square = self.beta_min**2 - 4 * (self.beta_max - self.beta_min) * log_alpha
        return -4 * log_alpha / (self.beta_min + square.sqrt())


@dataclass(frozen=True)
class CosineVP(VPSchedule):
    """The schedule alpha_t = cos((t + s) / (1 + s) pi/2) / cos(s / (1 + s) pi/2), over times from 0 to 0.9946.

    Source: Nichol and Dhariwal 2021, arXiv 2102.09672; the last time is DPM-Solver's.

    Args:
        s: the offset of the time, positive.

    Raises:
        TypeError: s is no number.
        ValueError: s is not positive and finite.
    """

    s: float = 0.008
    last_time = 0.9946

    def __post_init__(self) -> None:
        object.__setattr__(self, "s", as_float("s", self.s, positive=True))

    def _angle(self, time: Tensor | float) -> Tensor:
        return (torch.as_tensor(time, dtype=torch.float64) + self.s) / (1 + self.s) * (math.pi / 2)

    def log_alpha(self, time: Tensor) -> Tensor:
        return torch.cos(self._angle(time)).log() - torch.cos(self._angle(0.0)).log()

    def _time_of(self, log_alpha: Tensor) -> Tensor:
        cosine = torch.exp(log_alpha + torch.cos(self._angle(0.0)).log())
        return torch.arccos(cosine) * (2 / math.pi) * (1 + self.s) - self.s


@dataclass(frozen=True)
class DiscreteVP(VPSchedule):
    """The schedule of a network with N discrete times, between which ln alpha is linear in t = (i + 1) / N.

    Levels with ln(alpha / sqrt(1 - alpha²)) below -5.1, which cosine schedules have, are left out. Source: Lu et
    al. 2022, arXiv 2206.00927, section 3.4.

    Args:
        alphas_cumprod: the N products alpha², falling from below 1 towards 0.

    Raises:
        TypeError: alphas_cumprod that are no numbers.
        ValueError: products that are not positive or do not fall strictly, or fewer than 2 usable levels.
    """

    alphas_cumprod: tuple[float, ...]

    def __post_init__(self) -> None:
        values = [as_float("alphas_cumprod", v, positive=True) for v in self.alphas_cumprod]
        if any(late >= early for early, late in zip([1.0, *values], values, strict=False)):
            raise ValueError("alphas_cumprod must fall strictly from a number below 1")
        kept = [v for v in values if 0.5 * math.log(v / (1 - v)) >= LEAST_LOG_SNR]
        if len(kept) < 2:
            raise ValueError(f"alphas_cumprod must have 2 usable levels or more, got {len(kept)}")
        object.__setattr__(self, "alphas_cumprod", tuple(kept))

    def log_alpha(self, time: Tensor) -> Tensor:
        times, logs = self._knots()
        return _interpolated(time.to(torch.float64), times, logs)

    def _time_of(self, log_alpha: Tensor) -> Tensor:
        times, logs = self._knots()
        return _interpolated(log_alpha, logs[::-1], times[::-1])

    def _knots(self) -> tuple[np.ndarray, np.ndarray]:
        logs = 0.5 * np.log(np.array(self.alphas_cumprod))
        return np.arange(1, len(logs) + 1) / len(logs), logs


def _interpolated(where: Tensor, knots: np.ndarray, values: np.ndarray) -> Tensor:
    """Return the piecewise linear function through the knots, which goes on straight beyond them."""
    points = where.numpy(force=True)
    place = np.clip(np.searchsorted(knots, points) - 1, 0, len(knots) - 2)
    slope = (values[place + 1] - values[place]) / (knots[place + 1] - knots[place])
    return torch.from_numpy(np.asarray(values[place] + slope * (points - knots[place])))
