"""The steps of one run of sequential Monte Carlo: start, advance and finish. All that changes is in `State`."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from edmfast._internal.broadcast import population_factors
from edmfast.models.level_table import LevelTable
from edmfast.ops import rng_state, standard_normal
from edmfast.smc.compiling.compiled import CompiledStep
from edmfast.smc.compiling.step_table import StepTable
from edmfast.smc.correctors.correction import CorrectorMoves
from edmfast.smc.feynman_kac.phases import Phases
from edmfast.smc.particles.data import NOT_FINITE
from edmfast.smc.particles.evaluations import evaluations_of_run
from edmfast.smc.particles.particles import Particles
from edmfast.smc.populations.local import Increments, Populations
from edmfast.smc.populations.particle_state import ParticleState
from edmfast.smc.proposals import Step
from edmfast.smc.schedule import Schedule
from edmfast.smc.state import Row, State
from edmfast.smc.step import Advance, Mode, particles_of

_START_STREAM = 1


class Run:
    """The fixed parts of a run: its Feynman–Kac models, populations, correctors, levels and noise."""

    def __init__(
        self,
        phases: Phases,
        populations: Populations,
        moves: CorrectorMoves,
        schedule: Schedule,
        *,
        count: int,
        seed: int,
        device: torch.device,
        compile: bool,
        genealogy: bool,
        one_target: bool,
    ) -> None:
        """Prepare all steps of a run.

        count: the number of populations that this process has. one_target: whether all populations of the run have
        the same target. Other arguments as in `edmfast.smc.sample`.
        """
        self.phases, self.fk = phases, phases.first
        self.populations, self.moves = populations, moves
        self.schedule, self.levels = schedule, schedule.levels
        self.seed, self.genealogy, self.one_target = seed, genealogy, one_target
        # the state of the noise at every level is made once, so that a step needs no fills
        self.rng = rng_state(seed, 0, device).repeat(len(self.levels), 1)
        self.rng[:, 1] = torch.arange(len(self.levels), device=device)
        pairs = enumerate(itertools.pairwise(self.levels))
        steps = [Step(i, s, u) for i, (s, u) in pairs]
        self.steps = [phases.at(i).prepare(step, count, device) for i, step in enumerate(steps)]
        self.table = LevelTable(self.levels)
        self.eager = Advance(phases, populations, moves)
        self.compiled: CompiledStep | None = None
        if compile and self.steps:
            self.compiled = CompiledStep(self.eager, StepTable(self.steps, self.rng), self.table)

    def start(self, like: Tensor) -> State:
        """Draw the particles of the first level. like: gives shape [P, N, *shape], dtype and device."""
        with self.table.active():
            return self._start(like)

    def _start(self, like: Tensor) -> State:
        fk, sigma = self.phases.at(0), self.levels[0]
        z = standard_normal(
            like,
            seed=self.seed,
            step=0,
            stream=_START_STREAM,
            first_population=self.populations.first_population,
            first_particle=self.populations.first_particle,
        )
        # A power A of N(0, sigma² I) is N(0, (sigma²/A) I), which the target approaches at large
        # sigma.
        x = z * (sigma / population_factors(fk.exponent, z, z.dtype) ** 0.5)
        mode, next_step = self._mode(0), self._step(0)
        again = mode.correct and fk.evaluates_after_correction
        probes, after = (0, None) if again else (mode.probes, next_step)
        evaluation = fk.evaluate(x, sigma, self.rng[0], self.populations, probes=probes, step=after)
        log_weights, memory = fk.start(x, sigma, evaluation)
        if mode.ahead and evaluation.increment is not None:
            log_weights = log_weights + evaluation.increment
        if fk.rewards:
            denoised = fk.denoised(x, sigma, evaluation.score, memory)
            paid = fk.rewards.pay(None, x, denoised, sigma, last=mode.last)
            log_weights = log_weights + fk.rewards.total(paid)
            memory = torch.cat([memory, paid], 2)
        weights = self.populations.weigh_and_resample(
            self.populations.start(x.shape[0], x.shape[1], x.device),
            Increments(log_weights, [], []),
            self.rng[0],
            weigh=True,
            ess_threshold=mode.threshold,
        )
        particles = particles_of(x, evaluation, memory, self.moves.start(x), weights)
        acceptance = particles.tuning[1]
        if mode.correct:
            particles = self.eager.correct(particles, sigma, next_step, self.rng[0], mode)
        state = State(
            index=0,
            particles=particles,
            rows=[],
            acceptance=acceptance.repeat(len(self.levels), 1, 1),
            ancestors=None,
        )
        if self.genealogy:
            shape = (len(self.levels), *weights.ancestors.shape)
            state.ancestors = weights.ancestors.new_zeros(shape)
        self._record(state, 0, particles)
        return state

    def advance(self, state: State) -> None:
        """Move to the next level, weigh, and decide whether to resample there."""
        i = state.index
        before = self.populations.collect(state.particles)
        with self.table.active():
            particles = (self.compiled or self.eager)(
                before,
                self.steps[i],
                self._step(i + 1),
                self.rng[i],
                self.rng[i + 1],
                self._mode(i + 1),
            )
        self._record(state, i + 1, particles)
        # one update, after the traces: an interrupt must not leave a half-made step
        vars(state).update(particles=particles, index=i + 1)

    def after_callback(self) -> None:
        """Forget the numbers of noise levels that a callback may have made stale."""
        # the graphs of a compiled run hold those that they were traced with
        if self.compiled is None:
            self.table.forget()

    def settle(self, state: State) -> None:
        """Make a state whole after a step that may have been interrupted."""
        if self.compiled is None:
            return
        index, particles = self.compiled.settled(state.index, state.particles)
        if index != state.index:
            self._record(state, index, particles)
            vars(state).update(particles=particles, index=index)

    def _step(self, index: int) -> Step | None:
        """Return the step that leaves a level, None at the last one."""
        return self.steps[index] if index < len(self.steps) else None

    def _mode(self, index: int) -> Mode:
        """Return the mode of the step that leads to a level; at the start only what follows the level matters."""
        threshold, more = self.schedule.threshold(index), index < len(self.steps)
        return Mode(
            threshold=threshold,
            weigh=self.schedule.weighs(index),
            # The curvature at the last level would serve no move.
            probes=self.phases.probes_at(index) if more else 0,
            ahead=more and self.schedule.weighs(index + 1),
            last=bool(self.fk.rewards) and not more,
            correct=self.moves.applies(self.levels[index], threshold),
            part=self.phases.part_at(max(index - 1, 0)),
            next_part=self.phases.part_at(min(index, len(self.steps) - 1)),
        )

    def _record(self, state: State, index: int, particles: ParticleState) -> None:
        weights, corrected = particles.weights, particles.parents.numel() > 0
        row = None if self.compiled is None else self.compiled.recorded(index)
        state.record(index, row or Row.of(weights))
        if state.ancestors is not None:
            # Correctors have applied the ancestors, and left the identity in the weights.
            state.ancestors[index] = particles.parents if corrected else weights.ancestors
        if corrected:
            state.acceptance[index] = particles.tuning[1]

    def finish(self, state: State) -> Particles:
        """Return the result, after the denoising step where the schedule ends with 0."""
        # the scores at the end are those of the model that made the last step
        fk, particles = self.phases.at(len(self.steps) - 1), state.particles
        x, weights = particles.x, particles.weights
        all_levels = self.schedule.all_levels
        if all_levels[-1] == 0:
            with self.table.active():
                x = fk.denoised(x, self.levels[-1], particles.score, particles.memory)
        # weights alone do not tell: the moves of a sampler without weights carry a NaN to the end
        lost = ~x.isfinite().flatten(2).all(2) & (weights.log_weights != -torch.inf)
        corrector_nfe = self.moves.nfe * self._corrected_levels() + self._evaluated_again()
        return Particles(
            x=x,
            log_weights=weights.log_weights,
            # The last level is never resampled, so the mean of its weights is still to be added.
            log_z=weights.log_z + weights.log_mean,
            ess=state.ess,
            resampled=state.resampled,
            log_weight_sd=state.log_weight_sd,
            unique_ancestors=state.survivors[-1].clone(),
            degenerate=weights.degenerate | self.populations.any(lost).int() * NOT_FINITE,
            sigmas=torch.tensor(all_levels, dtype=torch.float64, device=x.device),
            nfe=len(self.levels) + math.ceil(corrector_nfe),
            seed=self.seed,
            law=self.fk.description,
            first_population=self.populations.first_population,
            survivors=state.survivors,
            ancestors=state.ancestors,
            log_densities=fk.log_densities(particles.memory),
            acceptance=state.acceptance if self.moves.correctors else None,
            evaluations=evaluations_of_run(
                self.fk.scored_models,
                len(self.levels) + corrector_nfe,
                probed=self.fk.probed_models,
                probes=sum(map(self.phases.probes_at, range(len(self.steps)))),
            ),
            one_target=self.one_target,
            log_z_note=self.fk.log_z_note,
        )

    def _corrected_levels(self) -> int:
        """Return the number of levels at which correctors are applied."""
        return sum(self._mode(index).correct for index in range(len(self.levels)))

    def _evaluated_again(self) -> int:
        """Return the number of levels at which particles are evaluated once more, after their correctors."""
        modes = map(self._mode, range(len(self.levels)))
        parts = self.phases.parts
        return sum(m.correct and parts[m.next_part].evaluates_after_correction for m in modes)
