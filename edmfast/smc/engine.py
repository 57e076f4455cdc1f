"""The steps of one run of sequential Monte Carlo: start, advance, finish. All state is in `State`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edmfast.ops import Resampled, propagate, resample, rng_state, standard_normal
from edmfast.smc.evaluate import evaluate
from edmfast.smc.particles import Particles
from edmfast.smc.proposals import Proposal, Step
from edmfast.smc.reductions import population_sd
from edmfast.smc.state import State

_START_STREAM = 1


class Engine:
    """Holds what does not change during a run; see `edmfast.smc.sample` for the arguments."""

    def __init__(
        self,
        target: Any,
        exponent: float,
        levels: list[float],
        kernel: Proposal,
        resampling: str,
        ess_threshold: float,
        sigma_range: tuple[float, float],
        seed: int,
        first_population: int,
        batch_size: int | None,
    ) -> None:
        self.target, self.exponent, self.levels, self.kernel = target, exponent, levels, kernel
        self.resampling = resampling
        self.ess_threshold, self.sigma_range = ess_threshold, sigma_range
        self.seed, self.first_population, self.batch_size = seed, first_population, batch_size

    def start(self, like: Tensor) -> State:
        populations, particles = like.shape[:2]
        sigma = self.levels[0]
        z = standard_normal(
            like,
            seed=self.seed,
            step=0,
            stream=_START_STREAM,
            first_population=self.first_population,
        )
        x = z * (sigma / math.sqrt(self.exponent))
        energy, score, curvature = self._evaluate(x, 0)
        squares = x.double().square().flatten(2).sum(2)
        log_weights = self.exponent * squares / (2 * sigma**2) - energy
        trace = torch.zeros(len(self.levels), populations, dtype=torch.float64, device=x.device)
        state = State(
            index=0,
            x=x,
            energy=energy,
            score=score,
            curvature=curvature,
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
        step = Step(i, self.levels[i], self.levels[i + 1])
        ancestors = self._resample(state, step.s)
        index = ancestors.long()
        curvature = state.curvature
        curvature = (
            curvature.gather(1, index).mean(1) if self.kernel.needs_curvature else state.log_z
        )
        rng = rng_state(self.seed, i, state.x.device)
        x, ratio = propagate(
            state.x,
            state.score,
            ancestors,
            self.kernel.coefficients(step, self.exponent, curvature),
            rng,
            first_population=self.first_population,
        )
        before = state.energy.gather(1, index)
        state.energy, state.score, state.curvature = self._evaluate(x, i + 1)
        state.x = x
        increment = ratio.double() - (state.energy - before)
        state.index = i + 1
        state.log_weight_sd[i + 1] = population_sd(increment)
        if step.u >= self.sigma_range[0]:
            state.log_weights = state.log_weights + increment

    def finish(self, state: State, levels: list[float]) -> Particles:
        result = self._weigh(state, 0.0)
        x = state.x
        if levels[-1] == 0:
            x = x + (self.levels[-1] ** 2 / self.exponent) * state.score
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
            degenerate=state.degenerate,
            sigmas=torch.tensor(levels, dtype=torch.float64, device=x.device),
            nfe=len(self.levels),
            seed=self.seed,
        )

    def _weigh(self, state: State, threshold: float) -> Resampled:
        result = resample(
            state.log_weights,
            rng_state(self.seed, state.index, state.x.device),
            scheme=self.resampling,
            ess_threshold=threshold,
            first_population=self.first_population,
        )
        state.ess[state.index] = result.ess
        state.resampled[state.index] = result.resampled
        state.degenerate = state.degenerate | result.degenerate
        return result

    def _resample(self, state: State, sigma: float) -> Tensor:
        low, high = self.sigma_range
        result = self._weigh(state, self.ess_threshold if low <= sigma <= high else 0.0)
        chosen = result.resampled
        state.log_z = state.log_z + torch.where(chosen, result.log_mean, 0.0)
        state.log_weights = torch.where(chosen[:, None], 0.0, state.log_weights)
        state.root = state.root.gather(1, result.ancestors.long())
        return result.ancestors

    def _evaluate(self, x: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
        last = index == len(self.levels) - 1
        found = evaluate(
            self.target,
            x,
            self.levels[index],
            probe=self.kernel.needs_curvature and not last,
            seed=self.seed,
            step=index,
            first_population=self.first_population,
            batch_size=self.batch_size,
        )
        curvature = found.curvature if found.curvature is not None else x.new_empty(0)
        return found.energy, found.score, curvature
