"""What a run of sequential Monte Carlo does with correctors after the decision at a level.

Where a population was resampled its slots first take their ancestors and start equal weights, else particles keep
both; then all move by kernels that leave the target of the level invariant, so weights and log Z stay as exact
as they were. Waste-free, the moved are M = N/L of the slots, and the states on their way are the particles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edmfast.smc.correctors import Corrector, check_correctors, correct, start_log_steps
from edmfast.smc.correctors.transition import LEVEL_BITS, Chains
from edmfast.smc.correctors.waste_free import take, waste_free

if TYPE_CHECKING:
    from edmfast.smc.step import Law, Moving


@dataclass(frozen=True)
class Correction:
    """correctors: C, applied in turn at levels in [low, high]. length: L of waste-free chains, 1 for none."""

    correctors: tuple[Corrector, ...] = ()
    low: float = 0.0
    high: float = math.inf
    length: int = 1

    def at(self, sigma: float, threshold: float) -> bool:
        """Whether anything is done at a level that resamples below this fraction of N. Waste-free chains begin
        with a resampling."""
        inside = bool(self.correctors) and self.low <= sigma <= self.high
        return inside and (self.length == 1 or threshold > 0)

    @property
    def nfe(self) -> float:
        """Evaluations for one particle at a level."""
        each = sum(corrector.nfe for corrector in self.correctors)
        return each if self.length == 1 else each * (self.length - 1) / self.length

    def start(self, x: Tensor) -> Tensor:
        """Where step sizes and acceptances [2, C, P] begin; empty without correctors."""
        steps = start_log_steps(self.correctors, x)
        return torch.stack((steps, torch.full_like(steps, math.nan)))

    def __call__(self, law: Law, moving: Moving, sigma: float | Tensor, rng: Tensor) -> Moving:
        """The particles of a level after its decision; rng is that of the level."""

        def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
            found = law.evaluate(x, sigma, rng, False)
            return found.energy, found.score

        weights = moving.weights
        options: dict[str, Any] = {
            "sigma": sigma,
            "exponent": law.exponent,
            "log_steps": moving.tuning[0],
            "rng": rng,
            "first_population": law.first_population,
        }
        chains = Chains(moving.x, moving.energy, moving.score)
        parents = weights.ancestors
        root, memory = weights.root, moving.memory
        if self.length == 1:
            chains = Chains(*(take(tensor, parents.long()) for tensor in chains))
            x, energy, score, *tuning = correct(self.correctors, evaluate, *chains, **options)
        else:
            found = waste_free(
                self.correctors,
                evaluate,
                chains,
                parents,
                weights.resampled,
                self.length,
                **options,
            )
            x, energy, score, slots, *tuning = found
            parents, root = parents.gather(1, slots), root.gather(1, slots)
        curvature = moving.curvature
        if curvature.numel() > 0:  # of the states before: kernels adapt to its mean only
            curvature = take(curvature, parents.long())
        if memory.shape[2] > 0:
            memory = take(memory, parents.long())
        everyone = torch.arange(parents.shape[1], dtype=parents.dtype, device=parents.device)
        weights = weights._replace(
            log_weights=torch.where(weights.resampled[:, None], 0.0, weights.log_weights),
            ancestors=everyone.expand_as(parents).contiguous(),
            root=root,
        )
        return moving._replace(
            x=x,
            energy=energy,
            score=score,
            curvature=curvature,
            memory=memory,
            tuning=torch.stack(tuning),
            parents=parents,
            weights=weights,
        )


NO_CORRECTION = Correction()


def make_correction(
    correctors: Corrector | Sequence[Corrector],
    corrector_range: tuple[float, float],
    length: int | None,
    law: Law,
    *,
    particles: int,
    levels: int,
) -> Correction:
    """From the arguments of `smc.sample`; length is its waste_free.

    Raises TypeError for anything but correctors; ValueError for an unadjusted kind on a score that is not exact,
    a law without energies or with rewards along paths, a bad range, and a length that does not divide N.
    """
    low, high = corrector_range
    times = 1 if length is None else max(1, length - 1)
    found = check_correctors(correctors, law.target, times)
    if not found:
        if length is not None:
            raise ValueError("waste_free needs correctors, which move the ancestors")
        return NO_CORRECTION
    if not law.has_energy:
        raise ValueError(
            "correctors leave an energy's law invariant; this run weighs by scores alone"
        )
    if law.rewards:
        raise ValueError(
            "correctors know the target of a level, not the rewards collected along paths: tilt the "
            "energy itself (potential='difference')"
        )
    if levels > 1 << LEVEL_BITS:
        raise ValueError(f"at most {1 << LEVEL_BITS} levels with correctors, got {levels}")
    if length is None:
        return Correction(found, low, high)
    if length < 2 or particles % length:
        raise ValueError(
            f"waste_free must be an integer of at least 2 that divides {particles} particles, "
            f"got {length!r}"
        )
    return Correction(found, low, high, length)
