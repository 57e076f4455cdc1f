"""The interface of a Feynman–Kac model: how particles move between noise levels, and what each move weighs.

The kinds, one file each:

| class                  | proposals                            | log-weights                                 |
|------------------------|--------------------------------------|---------------------------------------------|
| `EnergyFeynmanKac`     | any but "superdiff"                  | exact, from energies                        |
| `ScoreFeynmanKac`      | "feynman_kac", or any for one model  | Feynman–Kac correctors, or none             |
| `ReversalFeynmanKac`   | its own                              | matched reversals, from scores and traces   |
| `SuperDiffFeynmanKac`  | "superdiff"                          | none                                        |

A model knows nothing of ranks or correctors: the run hands in how the populations are held.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.broadcast import population_factors
from edmfast.smc.feynman_kac.evaluate import Evaluation
from edmfast.smc.feynman_kac.rewards import PathRewards
from edmfast.smc.populations.gather import take
from edmfast.smc.populations.local import Populations
from edmfast.smc.populations.particle_state import Move, ParticleState
from edmfast.smc.proposals import Proposal, Step
from edmfast.targets.exponents import Exponent


@dataclass(frozen=True)
class FeynmanKac(ABC):
    """A Feynman–Kac model of a target.

    target: an energy or a denoiser, or a combination of them. exponent: A, a float or float64 [P].
    proposal: the kernel that moves particles. batch_size: most rows per call of the target.
    rewards: those that are collected along paths. description: what is known of the law that the weighted
    particles follow. log_z_note: what the log Z of a run is worth.
    """

    target: Any
    exponent: Exponent
    proposal: Proposal
    batch_size: int | None
    rewards: PathRewards
    description: str
    log_z_note: str = ""

    @property
    def has_energy(self) -> bool:
        """True where `evaluate` returns the energy and score of the target."""
        return False

    @property
    def scored_models(self) -> tuple[Any, ...]:
        """The models whose scores one evaluation of the particles takes."""
        return (self.target,)

    @property
    def probed_models(self) -> tuple[Any, ...]:
        """The models whose scores a curvature probe differentiates."""
        return self.scored_models

    @property
    def memory_columns(self) -> int:
        """The number of columns that the model itself keeps in the memory of a particle."""
        return 0

    @property
    def needs_curvature(self) -> bool:
        """True where the proposal needs the curvature of every particle."""
        return self.proposal.needs_curvature

    @property
    def evaluates_after_correction(self) -> bool:
        """True where particles that correctors have moved must be evaluated once more before the next move."""
        return False

    def probes_at(self, index: int) -> int:
        """Return the number of curvature probes that a step of the run needs for every particle."""
        return int(self.needs_curvature)

    @abstractmethod
    def evaluate(
        self,
        x: Tensor,
        sigma: float | Tensor,
        rng: Tensor,
        populations: Populations,
        *,
        probes: int,
        step: Step | None,
    ) -> Evaluation:
        """Evaluate the target at states x [P, N, *shape]: one NFE.

        rng: int64 [2], the state of the noise at this level. probes: the number of curvature probes for each
        particle. step: the step that follows, None at the last level.
        """

    @abstractmethod
    def start(self, x: Tensor, sigma: float, evaluation: Evaluation) -> tuple[Tensor, Tensor]:
        """Return the log-weights [P, N] of particles drawn from N(0, (sigma²/A) I), and memory [P, N, C]."""

    @abstractmethod
    def move(self, state: ParticleState, step: Step, rng: Tensor, populations: Populations) -> Move:
        """Propose the states at the next level. rng: int64 [2], the state of the noise of the step."""

    def remember(
        self, move: Move, evaluation: Evaluation, state: ParticleState, step: Step
    ) -> Tensor:
        """Return the model's own columns of the memory [P, N, C] once the moved particles have been evaluated.

        state: the particles before the move.
        """
        return move.memory

    def for_correctors(self) -> FeynmanKac:
        """Return the model as it runs beside correctors."""
        return self

    def prepare(self, step: Step, populations: int, device: torch.device) -> Step:
        """Return the step with everything that can be computed before the run."""
        return step

    def energies(
        self, evaluation: Evaluation, state: ParticleState
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the energies after and before a move, whose difference enters the log-weights."""
        return [], []

    def log_densities(self, memory: Tensor) -> Tensor | None:
        """Return log-densities [P, N, M] in nats by each of M models, or None where they are not followed."""
        return None

    def combined_score(self, score: Tensor, memory: Tensor) -> Tensor:
        """Return the score S [P, N, *shape] of the target from the scores that `evaluate` returned."""
        return score

    def denoised(self, x: Tensor, sigma: float | Tensor, score: Tensor, memory: Tensor) -> Tensor:
        """Return the denoised states x + sigma² S/A, like x."""
        scale = population_factors(sigma**2 / self.exponent, x, x.dtype)
        return x + scale * self.combined_score(score, memory)

    def inherited_memory(self, state: ParticleState) -> Tensor:
        """Return the model's own columns of the memory, [P, N, C], read through the ancestors."""
        columns = state.memory[:, :, : self.memory_columns] if self.rewards else state.memory
        return columns if columns.shape[2] == 0 else take(columns, state.weights.ancestors)
