"""Advance all particles by one step of a run, as a function of tensors.

The order is: move each slot's ancestor by the proposal, evaluate the target at the new noise level, add the
increments to the log-weights, and decide which populations to resample. Deciding draws ancestors and copies
nothing: the next step's proposal, or the correctors of this step, take the ancestors' states.

The step reads no device value. It runs eagerly, and is traced for `compile=True`; what changes from step to step
(levels, index, the state of the noise) may therefore be tensors. `FeynmanKac` models move and weigh the particles,
see `edmfast.smc.feynman_kac`; the one that moves them may differ from the one that evaluates them afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edmfast.ops import Weights
from edmfast.smc.correctors.correction import NO_MOVES, CorrectorMoves
from edmfast.smc.feynman_kac.evaluate import Evaluation
from edmfast.smc.feynman_kac.phases import Phases
from edmfast.smc.populations.local import Increments, Populations
from edmfast.smc.populations.particle_state import ParticleState
from edmfast.smc.proposals import Step


@dataclass(frozen=True)
class Mode:
    """The parts of a step that depend on its level: a run has one mode for most steps and others at its ends.

    threshold: resample below this fraction of N. weigh: accumulate log-weights. probes: curvature probes of each
    particle for the step that follows. ahead: add what that step weighs where it is known already. last: the
    step leads to the last level, where rewards are paid in full. correct: correctors follow. part, next_part:
    the indices in `Phases.parts` of the models that make this step and the step that follows.
    """

    threshold: float
    weigh: bool
    probes: int
    ahead: bool = False
    last: bool = False
    correct: bool = False
    part: int = 0
    next_part: int = 0


@dataclass(frozen=True)
class Advance:
    """The step of a run, called with the particles of one level for those of the next."""

    phases: Phases
    populations: Populations
    moves: CorrectorMoves = NO_MOVES

    def __call__(
        self,
        state: ParticleState,
        step: Step,
        next_step: Step | None,
        rng: Tensor,
        next_rng: Tensor,
        mode: Mode,
    ) -> ParticleState:
        """Return the particles at level u from those at level s.

        next_step: the step that follows, None at the last level. rng, next_rng: int64 [2], the state of the noise
        for the move, and for what follows it.
        """
        fk, follower = self.phases.parts[mode.part], self.phases.parts[mode.next_part]
        before = state.weights
        move = fk.move(state, step, rng, self.populations)
        again = mode.correct and follower.evaluates_after_correction
        probes, after = (0, None) if again else (mode.probes, next_step)
        evaluation = follower.evaluate(
            move.x, step.u, next_rng, self.populations, probes=probes, step=after
        )
        ratio, (energies, energies_before) = move.log_ratio, fk.energies(evaluation, state)
        if mode.ahead and evaluation.increment is not None:
            ratio = evaluation.increment if ratio is None else ratio + evaluation.increment
        if ratio is None:
            ratio = before.log_weights.new_zeros(before.log_weights.shape)
        memory = fk.remember(move, evaluation, state, step)
        if fk.rewards:
            collected = fk.rewards.inherited(state.memory, before.ancestors)
            denoised = follower.denoised(move.x, step.u, evaluation.score, memory)
            paid = fk.rewards.pay(collected, move.x, denoised, step.u, last=mode.last)
            # Rewards enter as energies, so that the operator reads those before the move through
            # the ancestors.
            energies = [*energies, -fk.rewards.total(paid)]
            energies_before = [*energies_before, -fk.rewards.total(state.memory)]
            memory = torch.cat([memory, paid], 2)
        weights = self.populations.weigh_and_resample(
            before,
            Increments(ratio, energies, energies_before),
            next_rng,
            weigh=mode.weigh,
            ess_threshold=mode.threshold,
        )
        state = particles_of(move.x, evaluation, memory, state.tuning, weights)
        if mode.correct:
            state = self.correct(state, step.u, next_step, next_rng, mode)
        return state

    def correct(
        self,
        state: ParticleState,
        sigma: float | Tensor,
        next_step: Step | None,
        rng: Tensor,
        mode: Mode,
    ) -> ParticleState:
        """Return the particles of a level after its correctors. rng: int64 [2], the noise of the level."""
        fk = self.phases.parts[mode.next_part]
        state = self.moves(state, fk, self.populations, sigma, rng)
        if not fk.evaluates_after_correction:
            return state
        evaluation = fk.evaluate(
            state.x, sigma, rng, self.populations, probes=mode.probes, step=next_step
        )
        return state._replace(
            energy=evaluation.energy, score=evaluation.score, kernel=_kernel_of(evaluation)
        )


def particles_of(
    x: Tensor, evaluation: Evaluation, memory: Tensor, tuning: Tensor, weights: Weights
) -> ParticleState:
    """Return the particles of a level, before its correctors."""
    return ParticleState(
        x=x,
        energy=evaluation.energy,
        score=evaluation.score,
        kernel=_kernel_of(evaluation),
        memory=memory,
        tuning=tuning,
        parents=weights.ancestors.new_empty(0),
        weights=weights,
    )


def _kernel_of(evaluation: Evaluation) -> Tensor:
    kernel = evaluation.kernel
    return evaluation.energy.new_empty(0) if kernel is None else kernel
