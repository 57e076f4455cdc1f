"""One step of a run as a function of tensors: resample, propose, evaluate, weigh. Reads no device value.

The same function runs eagerly and is traced for `compile=True`; what changes from step to step (levels,
index, the state of the noise) may therefore be tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edmfast.ops import propagate, resample
from edmfast.smc.evaluate import evaluate
from edmfast.smc.proposals import Proposal, Step
from edmfast.smc.reductions import population_sd


class Moving(NamedTuple):
    """What a step replaces; shapes as in `State`."""

    x: Tensor
    energy: Tensor
    score: Tensor
    curvature: Tensor
    log_weights: Tensor
    log_z: Tensor
    root: Tensor
    degenerate: Tensor


class Report(NamedTuple):
    """[P] each: of the resampling decision before the move, and of the increments after it."""

    ess: Tensor
    resampled: Tensor
    log_weight_sd: Tensor


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
    """What a step does: resample below this fraction of N, weigh the move, probe the curvature after."""

    threshold: float
    weigh: bool
    probe: bool


def advance(
    law: Law, moving: Moving, step: Step, rng: Tensor, next_rng: Tensor, mode: Mode
) -> tuple[Moving, Report]:
    """From level s to level u. rng, next_rng: int64 [2], of this step and of the evaluation after it."""
    chosen = resample(
        moving.log_weights,
        rng,
        scheme=law.resampling,
        ess_threshold=mode.threshold,
        first_population=law.first_population,
    )
    index = chosen.ancestors.long()
    log_z = moving.log_z + torch.where(chosen.resampled, chosen.log_mean, 0.0)
    log_weights = torch.where(chosen.resampled[:, None], 0.0, moving.log_weights)
    # of every population: its mean curvature, or anything where none is needed
    bend = moving.curvature.gather(1, index).mean(1) if law.kernel.needs_curvature else log_z
    x, ratio = propagate(
        moving.x,
        moving.score,
        chosen.ancestors,
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
    increment = ratio.double() - (found.energy - moving.energy.gather(1, index))
    moved = Moving(
        x=x,
        energy=found.energy,
        score=found.score,
        curvature=x.new_empty(0) if found.curvature is None else found.curvature,
        log_weights=log_weights + increment if mode.weigh else log_weights,
        log_z=log_z,
        root=moving.root.gather(1, index),
        degenerate=moving.degenerate | chosen.degenerate,
    )
    return moved, Report(chosen.ess, chosen.resampled, population_sd(increment))
