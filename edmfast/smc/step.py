"""Advance all particles by one step of a run, as a function of tensors.

The order is: move each slot's ancestor by the proposal, evaluate the target at the new noise level, add the
increments to the log-weights, and decide which populations to resample. Deciding draws ancestors and copies
nothing: the next step's proposal, or the correctors of this step, take the ancestors' states.

The step reads no device value. It runs eagerly, and is traced for `compile=True`; what changes from step to step
(levels, index, the state of the noise) may therefore be tensors. A `FeynmanKac` model moves and weighs the
particles, see `edmfast.smc.feynman_kac`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edmfast.smc.correctors.correction import NO_MOVES, CorrectorMoves
from edmfast.smc.feynman_kac.base import FeynmanKac
from edmfast.smc.populations.local import Increments, Populations
from edmfast.smc.populations.particle_state import ParticleState
from edmfast.smc.proposals import Step


@dataclass(frozen=True)
class Mode:
    """The parts of a step that depend on its level: a run has one mode for most steps and others at its ends.

    threshold: resample below this fraction of N. weigh: accumulate log-weights. probe: compute the curvature.
    last: the step leads to the last level, where rewards are paid in full. correct: correctors follow.
    """

    threshold: float
    weigh: bool
    probe: bool
    last: bool = False
    correct: bool = False


@dataclass(frozen=True)
class Advance:
    """The step of a run, called with the particles of one level for those of the next."""

    fk: FeynmanKac
    populations: Populations
    moves: CorrectorMoves = NO_MOVES

    def __call__(
        self, state: ParticleState, step: Step, rng: Tensor, next_rng: Tensor, mode: Mode
    ) -> ParticleState:
        """Return the particles at level u from those at level s.

        rng, next_rng: int64 [2], the state of the noise for the move, and for what follows it.
        """
        fk, before = self.fk, state.weights
        move = fk.move(state, step, rng, self.populations)
        evaluation = fk.evaluate(move.x, step.u, next_rng, self.populations, probe=mode.probe)
        energies, energies_before = fk.energies(evaluation, state)
        memory = move.memory
        if fk.rewards:
            collected = fk.rewards.inherited(state.memory, before.ancestors)
            denoised = fk.denoised(move.x, step.u, evaluation.score, memory)
            paid = fk.rewards.pay(collected, move.x, denoised, step.u, last=mode.last)
            # Rewards enter as energies, so that the operator reads those before the move through
            # the ancestors.
            energies = [*energies, -fk.rewards.total(paid)]
            energies_before = [*energies_before, -fk.rewards.total(state.memory)]
            memory = torch.cat([memory, paid], 2)
        weights = self.populations.weigh_and_resample(
            before,
            Increments(move.log_ratio, energies, energies_before),
            next_rng,
            weigh=mode.weigh,
            ess_threshold=mode.threshold,
        )
        curvature = evaluation.curvature
        state = ParticleState(
            x=move.x,
            energy=evaluation.energy,
            score=evaluation.score,
            curvature=move.x.new_empty(0) if curvature is None else curvature,
            memory=memory,
            tuning=state.tuning,
            parents=weights.ancestors.new_empty(0),
            weights=weights,
        )
        if mode.correct:
            state = self.moves(state, fk, self.populations, step.u, next_rng)
        return state
