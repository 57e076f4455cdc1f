"""The steps of one run of sequential Monte Carlo: start, advance, finish. All state is in `State`."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from edmfast.ops import Weights, rng_state, standard_normal, weigh_and_resample
from edmfast.smc.compiled import CompiledStep
from edmfast.smc.evaluate import evaluate
from edmfast.smc.particles import Particles
from edmfast.smc.proposals import Step
from edmfast.smc.state import State
from edmfast.smc.step import Law, Mode, Moving, advance

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
        compile: bool = False,
    ) -> None:
        self.law, self.levels, self.seed = law, levels, seed
        self.ess_threshold, self.sigma_range = ess_threshold, sigma_range
        # the state of the noise at every level, made once so that a step needs no fills
        self.rng = rng_state(seed, 0, device).repeat(len(levels), 1)
        self.rng[:, 1] = torch.arange(len(levels), device=device)
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
        )
        x = z * (sigma / math.sqrt(self.law.exponent))
        found = evaluate(
            self.law.target,
            x,
            sigma,
            rng=self.rng[0],
            probe=self.law.kernel.needs_curvature and len(self.levels) > 1,
            first_population=self.law.first_population,
            batch_size=self.law.batch_size,
        )
        squares = x.double().square().flatten(2).sum(2)
        weights = weigh_and_resample(
            Weights.start(populations, particles, x.device),
            self.law.exponent * squares / (2 * sigma**2) - found.energy,
            [],
            [],
            self.rng[0],
            scheme=self.law.resampling,
            ess_threshold=self._threshold(0),
            first_population=self.law.first_population,
        )
        trace = torch.zeros(len(self.levels), populations, dtype=torch.float64, device=x.device)
        curvature = x.new_empty(0) if found.curvature is None else found.curvature
        state = State(
            index=0,
            moving=Moving(x, found.energy, found.score, curvature, weights),
            ess=trace,
            resampled=torch.zeros_like(trace, dtype=torch.bool),
            log_weight_sd=trace.clone(),
        )
        self._record(state)
        return state

    def advance(self, state: State) -> None:
        """Move to the next level, weigh, and decide whether to resample there."""
        i = state.index
        s, u = self.levels[i], self.levels[i + 1]
        mode = Mode(
            threshold=self._threshold(i + 1),
            weigh=u >= self.sigma_range[0],
            probe=self.law.kernel.needs_curvature and i + 2 < len(self.levels),
        )
        rng, next_rng = self.rng[i], self.rng[i + 1]
        state.moving = self.step(state.moving, Step(i, s, u), rng, next_rng, mode)
        state.index = i + 1
        self._record(state)

    def _threshold(self, index: int) -> float:
        """Fraction of N below which to resample at a level; never at the last one."""
        low, high = self.sigma_range
        inside = low <= self.levels[index] <= high and index + 1 < len(self.levels)
        return self.ess_threshold if inside else 0.0

    def _record(self, state: State) -> None:
        weights = state.moving.weights
        state.ess[state.index], state.resampled[state.index] = weights.ess, weights.resampled
        state.log_weight_sd[state.index] = weights.increment_sd

    def finish(self, state: State, levels: list[float]) -> Particles:
        x, weights = state.moving.x, state.moving.weights
        if levels[-1] == 0:
            x = x + (self.levels[-1] ** 2 / self.law.exponent) * state.moving.score
        ordered = weights.root.sort(1).values
        unique = 1 + (ordered.diff(dim=1) != 0).sum(1)
        return Particles(
            x=x,
            log_weights=weights.log_weights,
            log_z=weights.log_z + weights.log_mean,
            ess=state.ess,
            resampled=state.resampled,
            log_weight_sd=state.log_weight_sd,
            unique_ancestors=unique,
            degenerate=weights.degenerate,
            sigmas=torch.tensor(levels, dtype=torch.float64, device=x.device),
            nfe=len(self.levels),
            seed=self.seed,
        )
