"""One step of a run as a function of tensors: propose, evaluate, weigh and resample. Reads no device value.

The same function runs eagerly and is traced for `compile=True`; what changes from step to step (levels,
index, the state of the noise) may therefore be tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from edmfast.ops import Weights, propagate, weigh_and_resample
from edmfast.reference._sums import population_mean
from edmfast.smc.evaluate import evaluate
from edmfast.smc.proposals import Proposal, Step


class Moving(NamedTuple):
    """What a step replaces: particles at one noise level, and what was decided of them there.

    x, score [P, N, *shape]; energy [P, N]; curvature [P, N], or empty where the proposal needs none.
    """

    x: Tensor
    energy: Tensor
    score: Tensor
    curvature: Tensor
    weights: Weights

    def flat(self) -> tuple[Tensor, ...]:
        """All tensors in order."""
        return (*self[:4], *self.weights)

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Moving:
        """From what `flat` gives."""
        x, energy, score, curvature, *weights = tensors
        return cls(x, energy, score, curvature, Weights(*weights))


@dataclass(frozen=True)
class Law:
    """What all steps of a run share."""

    target: Any
    exponent: float
    kernel: Proposal
    resampling: str
    first_population: int
    batch_size: int | None


@dataclass(frozen=True)
class Mode:
    """What a step does: weigh the move, then resample below this fraction of N, and probe the curvature."""

    threshold: float
    weigh: bool
    probe: bool


def advance(
    law: Law, moving: Moving, step: Step, rng: Tensor, next_rng: Tensor, mode: Mode
) -> Moving:
    """From level s to level u. rng, next_rng: int64 [2], of the move and of what follows it."""
    before = moving.weights
    if law.kernel.needs_curvature:
        bend = population_mean(moving.curvature.gather(1, before.ancestors.long()))
    else:
        bend = before.log_z  # of the right shape, and not looked at
    x, ratio = propagate(
        moving.x,
        moving.score,
        before.ancestors,
        law.kernel.coefficients(step, law.exponent, bend),
        rng,
        first_population=law.first_population,
    )
    found = evaluate(
        law.target,
        x,
        step.u,
        rng=next_rng,
        probe=mode.probe,
        first_population=law.first_population,
        batch_size=law.batch_size,
    )
    weights = weigh_and_resample(
        before,
        ratio,
        found.energy,
        moving.energy,
        next_rng,
        weigh=mode.weigh,
        scheme=law.resampling,
        ess_threshold=mode.threshold,
        first_population=law.first_population,
    )
    curvature = x.new_empty(0) if found.curvature is None else found.curvature
    return Moving(x, found.energy, found.score, curvature, weights)
