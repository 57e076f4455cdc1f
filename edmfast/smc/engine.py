"""The steps of one run of sequential Monte Carlo: start, advance, finish. All state is in `State`."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from edmfast.ops import resample, rng_state, standard_normal
from edmfast.smc.compiled import CompiledStep
from edmfast.smc.evaluate import evaluate
from edmfast.smc.particles import Particles
from edmfast.smc.proposals import Step
from edmfast.smc.reductions import population_sd
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
        *,
        compile: bool = False,
    ) -> None:
        self.law, self.levels, self.seed = law, levels, seed
        self.ess_threshold, self.sigma_range = ess_threshold, sigma_range
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
            rng=rng_state(self.seed, 0, x.device),
            probe=self.law.kernel.needs_curvature and len(self.levels) > 1,
            first_population=self.law.first_population,
            batch_size=self.law.batch_size,
        )
        squares = x.double().square().flatten(2).sum(2)
        log_weights = self.law.exponent * squares / (2 * sigma**2) - found.energy
        trace = torch.zeros(len(self.levels), populations, dtype=torch.float64, device=x.device)
        state = State(
            index=0,
            x=x,
            energy=found.energy,
            score=found.score,
            curvature=x.new_empty(0) if found.curvature is None else found.curvature,
            log_weights=log_weights,
            log_z=trace.new_zeros(populations),
            root=torch.arange(particles, dtype=torch.int32, device=x.device).repeat(populations, 1),
            ess=trace,
            resampled=torch.zeros_like(trace, dtype=torch.bool),
            log_weight_sd=trace.clone(),
            degenerate=torch.zeros(populations, dtype=torch.int32, device=x.device),
        )
        state.log_weight_sd[0] = population_sd(log_weights)
        return state

    def advance(self, state: State) -> None:
        """Resample if needed at level s, then move to the next level u and weigh."""
        i = state.index
        s, u = self.levels[i], self.levels[i + 1]
        low, high = self.sigma_range
        mode = Mode(
            threshold=self.ess_threshold if low <= s <= high else 0.0,
            weigh=u >= low,
            probe=self.law.kernel.needs_curvature and i + 2 < len(self.levels),
        )
        device = state.x.device
        rng, next_rng = rng_state(self.seed, i, device), rng_state(self.seed, i + 1, device)
        moving = Moving(*(getattr(state, name) for name in Moving._fields))
        moved, report = self.step(moving, Step(i, s, u), rng, next_rng, mode)
        for name, value in zip(Moving._fields, moved, strict=True):
            setattr(state, name, value)
        state.ess[i], state.resampled[i] = report.ess, report.resampled
        state.log_weight_sd[i + 1] = report.log_weight_sd
        state.index = i + 1

    def finish(self, state: State, levels: list[float]) -> Particles:
        rng = rng_state(self.seed, state.index, state.x.device)
        result = resample(state.log_weights, rng, ess_threshold=0.0)
        state.ess[state.index] = result.ess
        x = state.x
        if levels[-1] == 0:
            x = x + (self.levels[-1] ** 2 / self.law.exponent) * state.score
        ordered = state.root.sort(1).values
        unique = 1 + (ordered.diff(dim=1) != 0).sum(1)
        return Particles(
            x=x,
            log_weights=state.log_weights,
            log_z=state.log_z + result.log_mean,
            ess=state.ess,
            resampled=state.resampled,
            log_weight_sd=state.log_weight_sd,
            unique_ancestors=unique,
            degenerate=state.degenerate | result.degenerate,
            sigmas=torch.tensor(levels, dtype=torch.float64, device=x.device),
            nfe=len(self.levels),
            seed=self.seed,
        )
