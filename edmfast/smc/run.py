"""The steps of one run of sequential Monte Carlo: start, advance, finish. All state is in `State`."""

from __future__ import annotations

import functools
import itertools
import math

import torch
from torch import Tensor

from edmfast.ops import Weights, rng_state, standard_normal
from edmfast.smc.compiled import CompiledStep
from edmfast.smc.feynman_kac.exponent import like_population
from edmfast.smc.particles.data import NOT_FINITE
from edmfast.smc.particles.evaluations import Evaluations, evaluations_of_run
from edmfast.smc.particles.particles import Particles
from edmfast.smc.proposals import Step
from edmfast.smc.state import State
from edmfast.smc.step import Law, Mode, Moving, advance, decide

_START_STREAM = 1


class Engine:
    """Holds what does not change during a run; see `edmfast.smc.sample` for the arguments."""

    def __init__(
        self,
        law: Law,
        levels: list[float],
        ess_threshold: float,
        sigma_range: tuple[float, float],
        seed: int,
        device: torch.device,
        *,
        populations: int = 1,
        compile: bool = False,
        genealogy: bool = False,
    ) -> None:
        self.law, self.levels, self.seed = law, levels, seed
        self.ess_threshold, self.sigma_range = ess_threshold, sigma_range
        self.genealogy = genealogy
        # the state of the noise at every level, made once so that a step needs no fills
        self.rng = rng_state(seed, 0, device).repeat(len(levels), 1)
        self.rng[:, 1] = torch.arange(len(levels), device=device)
        pairs = enumerate(itertools.pairwise(levels))
        self.steps = [law.prepared(Step(i, s, u), populations, device) for i, (s, u) in pairs]
        self.step = CompiledStep(law) if compile else functools.partial(advance, law)

    def start(self, like: Tensor) -> State:
        populations, particles = like.shape[:2]
        sigma = self.levels[0]
        z = standard_normal(
            like,
            seed=self.seed,
            step=0,
            stream=_START_STREAM,
            first_population=self.law.first_population,
            first_particle=self.law.first_particle,
        )
        law = self.law
        scale = like_population(law.exponent, z)
        if isinstance(scale, Tensor):
            scale = scale.to(z.dtype)
        x = z * (sigma / scale**0.5)
        probe = law.needs_curvature and len(self.levels) > 1
        found = law.evaluate(x, sigma, self.rng[0], probe)
        first, memory = law.start(x, sigma, found)
        if law.rewards:
            denoised = law.denoised(x, sigma, found.score, memory)
            paid = law.rewards.pay(None, x, denoised, sigma, last=len(self.levels) == 1)
            first, memory = first + law.rewards.total(paid), torch.cat([memory, paid], 2)
        start = Weights.start(populations, particles, x.device)
        if law.shared is not None:
            start = law.shared.numbered(start)
        mode = Mode(threshold=self._threshold(0), weigh=True, probe=probe)
        weights = decide(law, start, (first, [], []), self.rng[0], mode)
        trace = torch.zeros(len(self.levels), populations, dtype=torch.float64, device=x.device)
        curvature = x.new_empty(0) if found.curvature is None else found.curvature
        shape = (len(self.levels), populations, particles)
        tuning, nobody = law.correction.start(x), weights.ancestors.new_empty(0)
        moving = Moving(x, found.energy, found.score, curvature, memory, tuning, nobody, weights)
        if law.correction.at(sigma, mode.threshold):
            moving = law.correction(law, moving, sigma, self.rng[0])
        state = State(
            index=0,
            moving=moving,
            ess=trace,
            resampled=torch.zeros_like(trace, dtype=torch.bool),
            log_weight_sd=trace.clone(),
            survivors=torch.zeros_like(trace, dtype=torch.int64),
            acceptance=tuning[1].repeat(len(self.levels), 1, 1),
            ancestors=weights.ancestors.new_zeros(shape) if self.genealogy else None,
        )
        self._record(state, 0, moving)
        return state

    def advance(self, state: State) -> None:
        """Move to the next level, weigh, and decide whether to resample there."""
        i = state.index
        step = self.steps[i]
        threshold = self._threshold(i + 1)
        mode = Mode(
            threshold=threshold,
            weigh=self.levels[i + 1] >= self.sigma_range[0],
            probe=self.law.needs_curvature and i + 2 < len(self.levels),
            last=bool(self.law.rewards) and i + 2 == len(self.levels),
            correct=self.law.correction.at(self.levels[i + 1], threshold),
        )
        rng, next_rng = self.rng[i], self.rng[i + 1]
        moving = self.step(state.moving, step, rng, next_rng, mode)
        self._record(state, i + 1, moving)
        # in one, and after the traces: an interrupt must not find a half of it
        vars(state).update(moving=moving, index=i + 1)

    def _threshold(self, index: int) -> float:
        """Fraction of N below which to resample at a level; never at the last one."""
        low, high = self.sigma_range
        inside = low <= self.levels[index] <= high and index + 1 < len(self.levels)
        return self.ess_threshold if inside else 0.0

    def _record(self, state: State, index: int, moving: Moving) -> None:
        weights = moving.weights
        state.ess[index], state.resampled[index] = weights.ess, weights.resampled
        state.log_weight_sd[index] = weights.increment_sd
        roots = weights.root if self.law.resampling != "killing" else weights.root.sort(1).values
        if self.law.shared is not None:
            state.survivors[index] = self.law.shared.survivors(roots)
        else:
            state.survivors[index] = 1 + (roots[:, 1:] != roots[:, :-1]).sum(1)
        if state.ancestors is not None:
            corrected = moving.parents.numel() > 0
            state.ancestors[index] = moving.parents if corrected else weights.ancestors
        if moving.parents.numel() > 0:
            state.acceptance[index] = moving.tuning[1]

    def finish(self, state: State, levels: list[float]) -> Particles:
        moving, law = state.moving, self.law
        x, weights = moving.x, moving.weights
        if levels[-1] == 0:
            x = law.denoised(x, self.levels[-1], moving.score, moving.memory)
        return Particles(
            x=x,
            log_weights=weights.log_weights,
            log_z=weights.log_z + weights.log_mean,
            ess=state.ess,
            resampled=state.resampled,
            log_weight_sd=state.log_weight_sd,
            unique_ancestors=state.survivors[-1].clone(),
            degenerate=weights.degenerate | self._lost(x, weights.log_weights),
            sigmas=torch.tensor(levels, dtype=torch.float64, device=x.device),
            nfe=self._nfe(),
            seed=self.seed,
            law=law.told,
            first_population=law.first_population,
            survivors=state.survivors,
            ancestors=state.ancestors,
            log_densities=law.log_densities(moving.memory),
            acceptance=state.acceptance if law.correction.correctors else None,
            evaluations=self._evaluations(),
            one_target=law.one_target,
            log_z_note=law.log_z_note,
        )

    def _lost(self, x: Tensor, log_weights: Tensor) -> Tensor:
        """Return the flag int32 [P] of populations in which a state that has a weight is not finite.

        Weights alone do not tell: the moves of a sampler without weights carry a NaN to the end.
        """
        bad = ~x.isfinite().flatten(2).all(2) & (log_weights != -torch.inf)
        if self.law.shared is not None:
            bad = self.law.shared.everywhere(bad)
        return bad.any(1).int() * NOT_FINITE

    def _corrected(self) -> int:
        """Number of levels at which correctors are applied."""
        correction = self.law.correction
        return sum(correction.at(s, self._threshold(i)) for i, s in enumerate(self.levels))

    def _evaluations(self) -> Evaluations:
        """What one particle costs in this run."""
        levels = len(self.levels)
        visits = levels + self.law.correction.nfe * self._corrected()
        probed_visits = levels - 1 if self.law.needs_curvature else 0
        return evaluations_of_run(self.law.scored_models, visits, probed_visits=probed_visits)

    def _nfe(self) -> int:
        """For one particle, rounded up."""
        return len(self.levels) + math.ceil(self.law.correction.nfe * self._corrected())
