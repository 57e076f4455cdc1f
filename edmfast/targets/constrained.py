"""Constraints: U = E + lambda(sigma) v(x_0), v >= 0 the violation, 0 where the constraint holds; see `Tilted`.

Soft: the end is p exp(-lambda v). Hard: at the last level the energy is infinite where v > 0, which truncates p to
the constraint whatever the strength; the soft part then only leads particles there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.numbers import as_float, as_numbers
from edmfast.targets.tilted import RAMP, SLACK, Reward, Strength, Tilted

Bound = float | Tensor


class Constrained(Tilted):
    """exp(-strength v) times a model, and where hard_below is given nothing where v > 0.

    violation: [B, *shape] -> [B], not negative, of x_0: `box`, `half_space`, or any function or module.
    hard_below: noise level from which on the wall stands: in `smc.sample` the last one of the run, and no other.
    A wall at two levels would be another law, since who crosses it at the first is gone and cannot come back,
    which the weights count on. None: no wall. The wall is one of x_0 too, that is of the denoised state (with
    runs that end at 0, whose result is that) or of the state, as `of` says.
    Other arguments and errors as of `Tilted`; here the approximate gradient is the default.
    """

    _reward_name = "violation"

    def __init__(
        self,
        model: Any,
        violation: Reward,
        strength: Strength,
        *,
        hard_below: float | None = None,
        ramp: tuple[float, float] | None = RAMP,
        of: str = "denoised",
        gradient: str = "approximate",
        gradient_scale: float = 1.0,
        data_std: float = 0.5,
    ) -> None:
        if hard_below is not None:
            hard_below = as_float("hard_below", hard_below, positive=True)
        super().__init__(
            model,
            violation,
            strength,
            ramp=ramp,
            of=of,
            gradient=gradient,
            gradient_scale=gradient_scale,
            data_std=data_std,
        )
        self.hard_below = hard_below

    def check_levels(self, levels: Sequence[float]) -> None:
        """ValueError unless a run over these noise levels ends at the whole strength, and at the wall."""
        super().check_levels(levels)
        if self.hard_below is None:
            return
        standing = [level for level in levels if level <= self.hard_below * SLACK]
        if len(standing) != 1:
            raise ValueError(
                f"a wall must stand at the last noise level, {levels[-1]:g}, and no other: set hard_below "
                f"to it, given {self.hard_below:g}"
            )

    def reward_of(self, x: Tensor, denoised: Tensor) -> Tensor:
        """-v [B]."""
        return -super().reward_of(x, denoised)

    def _is_base(self, strength: float | Tensor, sigma: float | Tensor) -> bool:
        if self.hard_below is None:
            return super()._is_base(strength, sigma)
        return (
            super()._is_base(strength, sigma)
            and not isinstance(sigma, Tensor)
            and sigma > self.hard_below * SLACK
        )

    def tilt(
        self, energy: Tensor, reward: Tensor, strength: float | Tensor, sigma: float | Tensor
    ) -> Tensor:
        energy = super().tilt(energy, reward, strength, sigma)
        if self.hard_below is None:
            return energy
        outside = reward.detach() < 0
        if isinstance(sigma, Tensor):
            outside = outside & (sigma <= self.hard_below * SLACK)
        elif sigma > self.hard_below * SLACK:
            return energy
        return torch.where(outside, math.inf, energy)


class Box(nn.Module):
    """sum max(low - x, x - high, 0)², [B]."""

    low: Tensor
    high: Tensor

    numbers_only = True

    def __init__(self, low: Bound, high: Bound) -> None:
        super().__init__()
        lowest, highest = (
            as_numbers(name, bound, finite=False) for name, bound in (("low", low), ("high", high))
        )
        if not bool((lowest <= highest.to(lowest.device)).all()):
            raise ValueError(f"a box needs low <= high everywhere, given {low} and {high}")
        if bool((lowest == math.inf).any() or (highest == -math.inf).any()):
            raise ValueError(f"a box must hold some state, given low={low} and high={high}")
        self.register_buffer("low", lowest)
        self.register_buffer("high", highest)

    def forward(self, x: Tensor) -> Tensor:
        low, high = (bound.to(x.dtype) for bound in (self.low, self.high))
        outside = (low - x).clamp_min(0) + (x - high).clamp_min(0)
        return outside.square().flatten(1).sum(1)


class HalfSpace(nn.Module):
    """max(<normal, x> - offset, 0)², [B]."""

    normal: Tensor
    offset: Tensor

    numbers_only = True

    def __init__(self, normal: Tensor, offset: float) -> None:
        super().__init__()
        numbers, bound = as_numbers("normal", normal), as_float("offset", offset)
        if not bool(numbers.any()) or not bool(numbers.float().isfinite().all()):
            raise ValueError("the normal of a half-space must not be 0, and must fit float32")
        self.register_buffer("normal", numbers)
        self.register_buffer("offset", torch.tensor(bound, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        along = (x * self.normal.to(x.dtype)).flatten(1).sum(1)
        return (along - self.offset.to(x.dtype)).clamp_min(0).square()


def box(low: Bound, high: Bound) -> Box:
    """Violation of low <= x <= high, bounds as numbers or tensors that broadcast with one sample."""
    return Box(low, high)


def half_space(normal: Tensor, offset: float) -> HalfSpace:
    """Violation of <normal, x> <= offset, the normal of the shape of one sample."""
    return HalfSpace(normal, offset)
