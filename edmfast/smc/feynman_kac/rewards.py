"""Rewards as potentials of Feynman–Kac steering, with the log-potentials each particle has collected.

With r_t the reward of a particle's denoised state at level t and lambda_t the strength, the log-potentials
collected up to level t are

| potential  | L_t                                              |
|------------|--------------------------------------------------|
| difference | lambda_t r_t                                     |
| max        | sum over s <= t of lambda_s max(r_0, ..., r_s)   |
| sum        | sum over s <= t of lambda_s (r_0 + ... + r_s)    |

and at the last level L_T = lambda_T r_T for each, so that every potential ends in the base law times
exp(lambda r); the potentials differ in the particles that they favour on the way. Levels count from the start.
"max" and "sum" grow with the number of levels, and the last level takes back all that exceeds lambda r. Over 24
levels at lambda = 1 the weights there have degenerated (a mean of 3.7 for a truth of 0.8 with 1,000 particles), so
use them with few levels or a small lambda. Source: Singhal et al. 2025, "A general framework for inference-time
scaling and steering of diffusion models", arXiv 2501.06848.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.broadcast import population_factors
from edmfast.smc.feynman_kac.evaluate import in_groups
from edmfast.smc.populations.gather import take
from edmfast.targets.strength import strength_times_reward


@dataclass(frozen=True)
class PathRewards:
    """R tilted targets whose rewards are collected along the path.

    Their columns of the memory [P, N, 2 R] are R running statistics, then R values of L.
    """

    tilted: tuple[Any, ...] = ()
    batch_size: int | None = None

    def __bool__(self) -> bool:
        return bool(self.tilted)

    @property
    def columns(self) -> int:
        """The number of columns in the memory of a particle, 2 R."""
        return 2 * len(self.tilted)

    def inherited(self, memory: Tensor, ancestors: Tensor) -> Tensor:
        """Return these columns of the memory, [P, N, 2 R], read through the ancestors."""
        return take(memory[:, :, memory.shape[2] - self.columns :], ancestors)

    def total(self, memory: Tensor) -> Tensor:
        """Return the sum over rewards of L, [P, N], from a memory that ends with these columns."""
        return memory[:, :, memory.shape[2] - len(self.tilted) :].sum(2)

    def pay(
        self,
        collected: Tensor | None,
        x: Tensor,
        denoised: Tensor,
        sigma: float | Tensor,
        *,
        last: bool,
    ) -> Tensor:
        """Return the columns [P, N, 2 R] at a new level.

        collected: the columns at the level before, None at the start. last: True at the last level.
        """
        statistics, potentials = [], []
        for index, tilted in enumerate(self.tilted):
            reward = self._values(tilted, x, denoised)
            strength = population_factors(tilted.strength_at(sigma), reward)
            statistic, total = reward, torch.zeros_like(reward)
            if collected is not None:
                before = collected[:, :, index]
                total = collected[:, :, len(self.tilted) + index]
                statistic = _next_statistic(tilted.potential, before, reward)
            # At the last level every potential pays lambda r as a whole, so that all end in the
            # same law.
            if last or tilted.potential == "difference":
                # a hard constraint gives a wall: an infinite energy
                total = -tilted.tilt(torch.zeros_like(reward), reward, strength, sigma)
            else:
                total = total + strength_times_reward(strength, statistic)
            statistics.append(statistic)
            potentials.append(total)
        return torch.stack([*statistics, *potentials], 2)

    def _values(self, tilted: Any, x: Tensor, denoised: Tensor) -> Tensor:
        def call(part: Any, *rows: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (part.reward_of(*rows),)

        (values,) = in_groups(call, [tilted], [x, denoised], self.batch_size)
        # The last level takes back what the levels before have paid, and rounding would be left
        # over.
        return values.double()


def _next_statistic(potential: str, before: Tensor, reward: Tensor) -> Tensor:
    if potential == "max":
        return torch.maximum(before, reward)
    return before + reward if potential == "sum" else reward


def outer_rewards(target: Any, potentials: Sequence[str]) -> tuple[Any, list[Any]]:
    """Split a target into the tilts around it and the target inside them.

    potentials: those of the tilts to split off. Returns (the target inside, the tilts, outermost first).
    """
    tilts = []
    # A foreign target may have an attribute `potential` of another meaning.
    while getattr(target, "potential", None) in potentials and hasattr(target, "strength_at"):
        tilts.append(target)
        target = target.model
    return target, tilts
