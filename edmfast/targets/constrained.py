"""Constraints: U = E + lambda(sigma) v(x_0), with a violation v >= 0 that is 0 where the constraint holds.

A soft constraint ends at p exp(-lambda v). A hard one makes the energy infinite where v > 0 at the last noise
level, which truncates p to the constraint whatever the strength is. The soft part then only leads the particles
there. See `Tilted` for the strength and the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edmfast._internal.noise_levels import LEVEL_SLACK
from edmfast._internal.numbers import as_float, as_numbers
from edmfast.targets.protocols import Model
from edmfast.targets.strength import DEFAULT_RAMP, Strength
from edmfast.targets.tilted import Reward, Tilted

Bound = float | Tensor


class Constrained(Tilted):
    """A target that multiplies a model's density by exp(-strength v), and by 0 behind a wall.

    Without a wall the constraint is soft: the density ends at p exp(-strength v), and samples may violate it. The
    violations `box` and `half_space` are squares, so their strength has units of 1/x² (with x in units of the
    data), or of the inverse square of <normal, x>. With hard_below at the last positive level of the run, no
    sample violates it: with of="denoised" in a run that ends at 0, and with of="state" in a run that does not.
    The score is -grad U where `score_is_exact`. Source: as for `Tilted`, with the reward -v.

    Args:
        model: a target or a plain denoiser.
        violation: a function or module, [B, *shape] -> [B], not negative, evaluated at x_0: `box`, `half_space`,
            or your own. It is 0 where the constraint holds.
        strength: the final lambda, as for `Tilted`.
        hard_below: the noise level in units of x from which on the wall stands: the energy is infinite where
            v > 0. In `smc.sample` it must be the last level of the run and no other, because a particle that
            crosses a wall at one level is lost for the next, and the weights would count it as gone. With None
            there is no wall.
        ramp: (sigma_hi, sigma_lo) in units of x, as for `Tilted`.
        of: "denoised" or "state": the x_0 of the violation and of the wall. A run that ends at 0 returns the
            denoised state.
        gradient: "none", "approximate" or "exact", as for `Tilted`.
        gradient_scale: a factor on the constraint's share of the score.
        data_std: the standard deviation of the data in units of x.

    Raises:
        TypeError: as for `Tilted`.
        ValueError: a hard_below that is not positive, and as for `Tilted`.
    """

    _reward_name = "violation"

    def __init__(
        self,
        model: Model,
        violation: Reward,
        strength: Strength,
        *,
        hard_below: float | None = None,
        ramp: tuple[float, float] | None = DEFAULT_RAMP,
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
        """Raise ValueError unless a run over these noise levels ends at the whole strength and at the wall."""
        # A soft part that is not whole at the end would leave the soft density wrong even where the
        # wall stands.
        super().check_levels(levels)
        if self.hard_below is None:
            return
        standing = [level for level in levels if level <= self.hard_below * LEVEL_SLACK]
        if len(standing) != 1:
            raise ValueError(
                f"a wall must stand at the last noise level, {levels[-1]:g}, and no other: set hard_below "
                f"to it, given {self.hard_below:g}"
            )

    def reward_of(self, x: Tensor, denoised: Tensor) -> Tensor:
        """Return -v [B]."""
        return -super().reward_of(x, denoised)

    def _is_untilted(self, strength: float | Tensor, sigma: float | Tensor) -> bool:
        # At the wall the energy depends on the violation even where the strength is 0.
        if self.hard_below is None:
            return super()._is_untilted(strength, sigma)
        return (
            super()._is_untilted(strength, sigma)
            and not isinstance(sigma, Tensor)
            and sigma > self.hard_below * LEVEL_SLACK
        )

    def tilt(
        self, energy: Tensor, reward: Tensor, strength: float | Tensor, sigma: float | Tensor
    ) -> Tensor:
        """Return E + lambda v, which is infinite behind the wall."""
        energy = super().tilt(energy, reward, strength, sigma)
        if self.hard_below is None:
            return energy
        # The wall is a step function without a derivative, so the comparison must not enter the
        # graph.
        outside = reward.detach() < 0
        if isinstance(sigma, Tensor):
            # A level in a tensor is compared on the device, because reading it on the host would
            # wait.
            outside = outside & (sigma <= self.hard_below * LEVEL_SLACK)
        elif sigma > self.hard_below * LEVEL_SLACK:
            return energy
        return torch.where(outside, math.inf, energy)


class Box(nn.Module):
    """The violation sum max(low - x, x - high, 0)² of a box, [B, *shape] -> [B]; see `box`."""

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
        # low = inf passes low <= high where high is inf too, but no finite state lies in such a
        # box.
        if bool((lowest == math.inf).any() or (highest == -math.inf).any()):
            raise ValueError(f"a box must hold some state, given low={low} and high={high}")
        self.register_buffer("low", lowest)
        self.register_buffer("high", highest)

    def forward(self, x: Tensor) -> Tensor:
        # The bounds are stored in float64 and rounded at the call, so one box serves states of
        # every dtype.
        low, high = self.low.to(x.dtype), self.high.to(x.dtype)
        outside = (low - x).clamp_min(0) + (x - high).clamp_min(0)
        return outside.square().flatten(1).sum(1)


class HalfSpace(nn.Module):
    """The violation max(<normal, x> - offset, 0)² of a half-space, [B, *shape] -> [B]; see `half_space`."""

    normal: Tensor
    offset: Tensor

    numbers_only = True

    def __init__(self, normal: Tensor, offset: float) -> None:
        super().__init__()
        numbers, bound = as_numbers("normal", normal), as_float("offset", offset)
        # A normal that overflows in float32, the dtype of most states, would make the violation NaN
        # at a call.
        if not bool(numbers.any()) or not bool(numbers.float().isfinite().all()):
            raise ValueError("the normal of a half-space must not be 0, and must fit float32")
        self.register_buffer("normal", numbers)
        self.register_buffer("offset", torch.tensor(bound, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        projection = (x * self.normal.to(x.dtype)).flatten(1).sum(1)
        return (projection - self.offset.to(x.dtype)).clamp_min(0).square()


def box(low: Bound, high: Bound) -> Box:
    """Return the violation of low <= x <= high, which is sum max(low - x, x - high, 0)².

    Args:
        low: a number, or a tensor that broadcasts with one sample, in units of x; -inf is accepted.
        high: the upper bound, of the same form; inf is accepted.

    Returns:
        A module [B, *shape] -> [B].

    Raises:
        TypeError: bounds that are no numbers.
        ValueError: low > high somewhere, or a box that holds no state.
    """
    return Box(low, high)


def half_space(normal: Tensor, offset: float) -> HalfSpace:
    """Return the violation of <normal, x> <= offset, which is max(<normal, x> - offset, 0)².

    Args:
        normal: a tensor of the shape of one sample, not 0.
        offset: a number, in units of normal times x.

    Returns:
        A module [B, *shape] -> [B].

    Raises:
        TypeError: an offset that is no number.
        ValueError: a normal that is 0 or does not fit float32, or numbers that are not finite.
    """
    return HalfSpace(normal, offset)
