"""Populations whose particles are all held by this process: how they are weighed, resampled and averaged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from edmfast.ops import Weights, weigh_and_resample
from edmfast.ops._shared.sums import population_mean
from edmfast.smc.populations.particle_state import ParticleState
from edmfast.smc.populations.select import SELECT, select_one


class Increments(NamedTuple):
    """The terms that a step adds to the log-weights.

    log_ratio: [P, N] in nats, see `Move`. energies, energies_before: lists of [P, N], after and before the move.
    Each difference is subtracted from the log-weight.
    """

    log_ratio: Tensor
    energies: list[Tensor]
    energies_before: list[Tensor]


class Populations:
    """P populations of N particles, each held whole by this process.

    first_population, first_particle: the indices of population 0 and of particle 0 in the counters of the noise.
    resampling: a scheme of `edmfast.ops.resample`, or "select". `edmfast.smc.distributed` holds populations that
    are spread over ranks.
    """

    whole = True
    """True where this process holds all particles of every population that it knows."""

    def __init__(self, first_population: int = 0, resampling: str = "systematic") -> None:
        self.first_population, self.resampling = first_population, resampling
        self.first_particle = 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over particles of values [P, N]: float64 [P]."""
        return population_mean(values)

    def any(self, flags: Tensor) -> Tensor:
        """Return for each population whether any of flags, bool [P, N], is set: bool [P]."""
        return flags.any(1)

    def start(self, populations: int, particles: int, device: torch.device) -> Weights:
        """Return equal weights at the start, with every particle as its own root."""
        return Weights.start(populations, particles, device)

    def collect(self, state: ParticleState) -> ParticleState:
        """Return the particles as a step needs them: with all ancestors held by this process."""
        return state

    def weigh_and_resample(
        self,
        before: Weights,
        increments: Increments,
        rng: Tensor,
        *,
        weigh: bool,
        ess_threshold: float,
    ) -> Weights:
        """Return the weights at a level, and its ancestors where populations were resampled.

        before: the weights at the level before. rng: int64 [2], the state of the noise at this level. weigh:
        False leaves the log-weights as they are. ess_threshold: resample below this fraction of N.
        """
        select = self.resampling == SELECT
        weights = weigh_and_resample(
            before,
            increments.log_ratio,
            increments.energies,
            increments.energies_before,
            rng,
            weigh=weigh,
            # A threshold of 0 resamples nothing, so that select_one finds the weights as they are.
            scheme="systematic" if select else self.resampling,
            ess_threshold=0.0 if select else ess_threshold,
            first_population=self.first_population,
        )
        if select and ess_threshold > 0:
            weights = select_one(weights, rng, self.first_population)
        return weights
