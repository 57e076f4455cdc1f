"""Move the particles of a level by correctors, after its resampling decision.

Where a population was resampled, its slots first take their ancestors and start from equal weights; elsewhere
particles keep their states and weights. All then move by kernels that leave the target of the level invariant, so
weights and log Z stay as exact as they were. With waste-free chains M = N/L of the slots move, and the states on
their way are the particles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast.ops._shared.roots import count_roots
from edmfast.smc.correctors import (
    Corrector,
    as_correctors,
    check_correctors,
    correct,
    start_log_steps,
)
from edmfast.smc.correctors.transition import LEVEL_BITS, Chains
from edmfast.smc.correctors.waste_free import waste_free
from edmfast.smc.feynman_kac.base import FeynmanKac
from edmfast.smc.options import Correction
from edmfast.smc.populations.gather import take
from edmfast.smc.populations.local import Populations
from edmfast.smc.populations.particle_state import ParticleState


@dataclass(frozen=True, repr=False)
class CorrectorMoves:
    """The moves of the correctors of a run.

    correctors: C of them, applied in turn at levels in [low, high]. length: L of waste-free chains; 1 for
    ordinary chains.
    """

    correctors: tuple[Corrector, ...] = ()
    low: float = 0.0
    high: float = math.inf
    length: int = 1

    def __repr__(self) -> str:
        # checkpoints tell runs apart by this text
        fields = (f"{name}={value!r}" for name, value in vars(self).items())
        return f"Correction({', '.join(fields)})"

    @property
    def unadjusted(self) -> bool:
        """True where a corrector takes moves without an accept step, and is biased by its step size."""
        return not all(corrector.adjusted for corrector in self.correctors)

    def applies(self, sigma: float, threshold: float) -> bool:
        """Return whether particles move at a level that resamples below the fraction `threshold` of N.

        Waste-free chains begin with a resampling, so they need a positive threshold.
        """
        inside = bool(self.correctors) and self.low <= sigma <= self.high
        return inside and (self.length == 1 or threshold > 0)

    @property
    def nfe(self) -> float:
        """The evaluations for one particle at a level."""
        each = sum(corrector.nfe for corrector in self.correctors)
        # The first state of a chain is not moved.
        return each if self.length == 1 else each * (self.length - 1) / self.length

    def start(self, x: Tensor) -> Tensor:
        """Return the first log step sizes and acceptances, float64 [2, C, P]."""
        steps = start_log_steps(self.correctors, x)
        # NaN is the acceptance of levels without correctors.
        return torch.stack((steps, torch.full_like(steps, math.nan)))

    def __call__(
        self,
        state: ParticleState,
        fk: FeynmanKac,
        populations: Populations,
        sigma: float | Tensor,
        rng: Tensor,
    ) -> ParticleState:
        """Return the particles of a level after its correctors. rng: int64 [2], the noise of the level."""

        def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
            evaluation = fk.evaluate(x, sigma, rng, populations, probes=0, step=None)
            return evaluation.energy, fk.combined_score(evaluation.score, state.memory)

        weights = state.weights
        options: dict[str, Any] = {
            "sigma": sigma,
            "exponent": fk.exponent,
            "log_steps": state.tuning[0],
            "rng": rng,
            "first_population": populations.first_population,
        }
        chains = Chains(state.x, state.energy, fk.combined_score(state.score, state.memory))
        parents = weights.ancestors
        root, memory, survivors = weights.root, state.memory, weights.survivors
        if self.length == 1:
            chains = Chains(*(take(tensor, parents) for tensor in chains))
            x, energy, score, *tuning = correct(self.correctors, evaluate, *chains, **options)
        else:
            x, energy, score, slots, *tuning = waste_free(
                self.correctors,
                evaluate,
                chains,
                parents,
                weights.resampled,
                self.length,
                **options,
            )
            parents, root = parents.gather(1, slots), root.gather(1, slots)
            survivors = count_roots(root, together=populations.resampling != "killing")
        kernel = state.kernel
        if kernel.numel() > 0:  # it belongs to the states before: proposals use its mean only
            kernel = take(kernel, parents)
        if memory.shape[2] > 0:
            memory = take(memory, parents)
        identity = torch.arange(parents.shape[1], dtype=parents.dtype, device=parents.device)
        weights = weights._replace(
            # log Z has taken up the mean weight of resampled populations, whose slots start from
            # equal weights.
            log_weights=torch.where(weights.resampled[:, None], 0.0, weights.log_weights),
            # The states are those of the ancestors now, and the next step must not take them once
            # more.
            ancestors=identity.expand_as(parents).contiguous(),
            root=root,
            survivors=survivors,
        )
        return state._replace(
            x=x,
            energy=energy,
            score=score,
            kernel=kernel,
            memory=memory,
            tuning=torch.stack(tuning),
            parents=parents,
            weights=weights,
        )


NO_MOVES = CorrectorMoves()


def make_corrector_moves(
    correction: Correction, fk: FeynmanKac, particles: int, levels: int
) -> CorrectorMoves:
    """Return the corrector moves of a run of N = `particles` over a number of levels.

    Raises TypeError for a target without an energy. Raises ValueError for an unadjusted kind on a score that is
    not exact, for a model without energies or with rewards along paths, and for a waste_free that does not
    divide N.
    """
    (low, high), length = correction.sigma_range, correction.waste_free
    correctors = as_correctors(correction.correctors)
    check_correctors(correctors, fk.target, 1 if length is None else length - 1)
    if not correctors:
        return NO_MOVES
    if not fk.has_energy:
        raise ValueError(
            "correctors leave an energy's law invariant; this run weighs by scores alone"
        )
    if fk.rewards:
        raise ValueError(
            "correctors know the target of a level, not the rewards collected along paths: tilt the "
            "energy itself (potential='difference')"
        )
    if levels > 1 << LEVEL_BITS:
        raise ValueError(f"at most {1 << LEVEL_BITS} levels with correctors, got {levels}")
    if length is not None and particles % length:
        raise ValueError(
            f"Correction.waste_free must divide the {particles} particles, got {length}"
        )
    return CorrectorMoves(correctors, low, high, length or 1)
