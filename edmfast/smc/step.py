"""One step of a run as a function of tensors: propose, evaluate, weigh and resample. Reads no device value.

The same function runs eagerly and is traced for `compile=True`; what changes from step to step (levels,
index, the state of the noise) may therefore be tensors. What moves and weighs the particles is a `Law`, of
which there are several kinds in `edmfast.smc.feynman_kac.energy` and `edmfast.smc.feynman_kac.scores`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from edmfast.ops import Weights, weigh_and_resample
from edmfast.ops._shared.sums import population_mean
from edmfast.smc.correctors.correction import NO_CORRECTION, Correction
from edmfast.smc.feynman_kac.evaluate import Evaluation
from edmfast.smc.feynman_kac.exponent import Exponent, like_population
from edmfast.smc.feynman_kac.rewards import PathRewards
from edmfast.smc.proposals import Proposal, Step
from edmfast.smc.select import SELECT, select_one

if TYPE_CHECKING:
    from edmfast.smc.distributed.shared_population import SharedPopulations


class Moving(NamedTuple):
    """What a step replaces: particles at one noise level, and what was decided of them there.

    x [P, N, *shape]; energy [P, N], or what else the law weighs the next move by; score [P, N, *shape], or
    [M, P, N, *shape] of M models; curvature [P, N], or empty where the proposal needs none; memory float64
    [P, N, C], what a particle and its offspring carry along: the law's columns, then those of rewards; tuning
    float64 [2, C, P], log step sizes and acceptances of the correctors; parents int32 [P, N], the ancestors where
    correctors have applied them already, else empty.
    """

    x: Tensor
    energy: Tensor
    score: Tensor
    curvature: Tensor
    memory: Tensor
    tuning: Tensor
    parents: Tensor
    weights: Weights

    def flat(self) -> tuple[Tensor, ...]:
        """All tensors in order."""
        return (*self[:-1], *self.weights)

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Moving:
        """From what `flat` gives."""
        x, energy, score, curvature, memory, tuning, parents, *weights = tensors
        return cls(x, energy, score, curvature, memory, tuning, parents, Weights(*weights))


class Moved(NamedTuple):
    """A proposed move: x [P, N, *shape], its log-ratio [P, N] in nats, and the law's own columns of the memory,
    carried to the slots that the particles went to."""

    x: Tensor
    ratio: Tensor
    memory: Tensor


@dataclass(frozen=True)
class Law:
    """What all steps of a run share. Its kinds say how particles move and what they weigh.

    told: what is known of the law that the result follows; log_z_note: what its log Z is worth; one_target:
    whether all populations have the same target. shared: where the particles of each population are
    spread over ranks, how these weigh and resample together.
    """

    target: Any
    exponent: Exponent
    kernel: Proposal
    resampling: str
    first_population: int
    batch_size: int | None
    rewards: PathRewards
    told: str
    log_z_note: str = ""
    one_target: bool | None = None
    correction: Correction = NO_CORRECTION
    shared: SharedPopulations | None = None

    @property
    def has_energy(self) -> bool:
        """Whether what `evaluate` finds is U and S of the target."""
        return False

    @property
    def scored_models(self) -> tuple[Any, ...]:
        """The models whose scores `evaluate` takes, which the count of evaluations goes by."""
        return (self.target,)

    @property
    def first_particle(self) -> int:
        """Where the noise of particle 0 begins."""
        return 0 if self.shared is None else self.shared.first_particle

    def population_mean(self, values: Tensor) -> Tensor:
        """[P, N] -> [P], over the particles of all ranks."""
        return population_mean(values if self.shared is None else self.shared.everywhere(values))

    @property
    def memory_columns(self) -> int:
        """How many numbers a particle carries along for the law itself."""
        return 0

    @property
    def needs_curvature(self) -> bool:
        return self.kernel.needs_curvature

    def evaluate(self, x: Tensor, sigma: float | Tensor, rng: Tensor, probe: bool) -> Evaluation:
        """One NFE. energy: what `weighed` compares."""
        raise TypeError(f"{type(self).__name__} must evaluate")

    def start(self, x: Tensor, sigma: float, found: Evaluation) -> tuple[Tensor, Tensor]:
        """(log-weights [P, N] of particles drawn from N(0, (sigma²/A) I), memory [P, N, C])."""
        raise TypeError(f"{type(self).__name__} must weigh its start")

    def prepared(self, step: Step, populations: int, device: torch.device) -> Step:
        """The step with what can be known of it before the run."""
        return step

    def move(self, moving: Moving, step: Step, rng: Tensor) -> Moved:
        raise TypeError(f"{type(self).__name__} must move")

    def compared(self, found: Evaluation, moving: Moving) -> tuple[list[Tensor], list[Tensor]]:
        """Energies after and before the move, whose difference counts in the weights."""
        return [], []

    def log_densities(self, memory: Tensor) -> Tensor | None:
        """Of the particles by each model, [P, N, M] in nats, where the law follows them."""
        return None

    def guided(self, score: Tensor, memory: Tensor) -> Tensor:
        """S [P, N, *shape] of what `evaluate` found."""
        return score

    def denoised(self, x: Tensor, sigma: float | Tensor, score: Tensor, memory: Tensor) -> Tensor:
        """x + sigma² S/A."""
        scale = like_population(sigma**2 / self.exponent, x)
        if isinstance(scale, Tensor):
            scale = scale.to(x.dtype)
        return x + scale * self.guided(score, memory)


@dataclass(frozen=True)
class Mode:
    """What a step does: weigh the move, then resample below this fraction of N, and probe the curvature.

    last: it leads to the last level, where rewards are paid in full. correct: correctors follow.
    """

    threshold: float
    weigh: bool
    probe: bool
    last: bool = False
    correct: bool = False


def advance(
    law: Law, moving: Moving, step: Step, rng: Tensor, next_rng: Tensor, mode: Mode
) -> Moving:
    """From level s to level u. rng, next_rng: int64 [2], of the move and of what follows it."""
    if law.shared is not None:
        moving = law.shared.arrive(moving)
    before = moving.weights
    moved = law.move(moving, step, rng)
    found = law.evaluate(moved.x, step.u, next_rng, mode.probe)
    now, past = law.compared(found, moving)
    memory = moved.memory
    if law.rewards:
        carried = law.rewards.carried(moving.memory, before.ancestors)
        denoised = law.denoised(moved.x, step.u, found.score, memory)
        paid = law.rewards.pay(carried, moved.x, denoised, step.u, last=mode.last)
        now, past = [*now, -law.rewards.total(paid)], [*past, -law.rewards.total(moving.memory)]
        memory = torch.cat([memory, paid], 2)
    weights = decide(law, before, (moved.ratio, now, past), next_rng, mode)
    curvature = moved.x.new_empty(0) if found.curvature is None else found.curvature
    nobody = weights.ancestors.new_empty(0)
    moving = Moving(
        moved.x, found.energy, found.score, curvature, memory, moving.tuning, nobody, weights
    )
    return law.correction(law, moving, step.u, next_rng) if mode.correct else moving


def decide(
    law: Law,
    before: Weights,
    increments: tuple[Tensor, list[Tensor], list[Tensor]],
    rng: Tensor,
    mode: Mode,
) -> Weights:
    """The weights at a level from (ratio, energies, energies before), and who has offspring."""
    if law.shared is not None:
        return law.shared.decide(
            before,
            *increments,
            rng,
            weigh=mode.weigh,
            ess_threshold=mode.threshold,
            first_population=law.first_population,
        )
    select = law.resampling == SELECT
    weights = weigh_and_resample(
        before,
        *increments,
        rng,
        weigh=mode.weigh,
        scheme="systematic" if select else law.resampling,
        ess_threshold=0.0 if select else mode.threshold,
        first_population=law.first_population,
    )
    if select and mode.threshold > 0:
        weights = select_one(weights, rng, law.first_population)
    return weights


def carried(values: Tensor, ancestors: Tensor) -> Tensor:
    """values [P, N, C] of the particles that each slot takes."""
    if values.shape[2] == 0:
        return values
    return values.gather(1, ancestors.long()[:, :, None].expand(values.shape))
