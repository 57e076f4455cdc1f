"""Sequential Monte Carlo along the noise levels of a diffusion, with exact weights.

Target pi_sigma ∝ exp(-U(x, sigma)) with score S and exponent A. Start x ~ N(0, (sigma_max²/A) I) with
log G_0 = -U + A |x|²/(2 sigma_max²); each step s -> u moves by the proposal and adds
log G = R - [U(x_u, u) - U(x_s, s)], R from `edmfast.ops.propagate`. A population is resampled
(systematically) where its effective sample size falls below a fraction of N; log Z accumulates the
log-mean-weights. Nothing on the path reads a device value on the host.
Source: Thornton et al. 2025, arXiv 2502.12786; Del Moral, Doucet and Jasra 2006 (SMC samplers).
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from edmfast.ops import propagate, rng_state, standard_normal, systematic_resample
from edmfast.reference.noise import uniform
from edmfast.smc.calibration import Calibration
from edmfast.smc.evaluate import evaluate
from edmfast.smc.particles import DegenerateWeightsWarning, Particles
from edmfast.smc.proposals import CurvatureMatched, Proposal, Step, as_proposal
from edmfast.smc.reductions import population_mean, population_sd
from edmfast.smc.schedule import check_counts, check_sigmas, check_target, place
from edmfast.smc.state import State, fingerprint, load_state, save_state

_START_STREAM = 1


def sample(
    target: Any,
    shape: Sequence[int],
    sigmas: Tensor | Sequence[float] | Calibration,
    *,
    particles: int,
    populations: int = 1,
    proposal: str | Proposal = "curvature_matched",
    resampling: str = "systematic",
    ess_threshold: float = 0.5,
    sigma_range: tuple[float, float] = (0.0, math.inf),
    seed: int = 0,
    compile: bool = False,
    progress: bool = False,
    callback: Callable[[dict[str, Any]], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 8,
    resume: str | os.PathLike[str] | None = None,
    first_population: int = 0,
    batch_size: int | None = None,
    on_degenerate: str = "warn",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Particles:
    """Weighted samples of the target at the last positive noise level.

    Args:
        target: has energy_and_score(x [B, *shape], sigma) -> ([B], like x) and exponent A > 0.
        shape: of one sample. sigmas: strictly decreasing, positive, in units of x; a last 0 adds one
            deterministic denoising step. A `Calibration` brings its own levels and kappa table.
        particles, populations: N and P; populations are independent of each other.
        proposal: "euler", "ancestral", "noise_matched", "curvature_matched", or a Proposal.
        resampling: "systematic". ess_threshold: resample below this fraction of N; 0 never does.
        sigma_range: (lo, hi). Below lo, weights stop and the same kernel runs on unweighted; resampling
            happens from hi down to lo.
        seed: 64-bit. Population p has the same numbers for every P, batch_size aside from rounding;
            first_population is the index of the first one, to split a run over calls.
        callback: gets {"i", "sigma", "x", "energy", "score", "log_weights"} after every level.
        checkpoint: file written every `checkpoint_every` steps and on Ctrl-C; resume: such a file; the
            run then ends in the same bits as an uninterrupted one.
        batch_size: most rows per call of the target. on_degenerate: "warn" or "raise".
        device, dtype (float32 or float64): of the states; by default those of the target's tensors.

    Returns `Particles`. Raises ValueError or TypeError for bad arguments or a checkpoint of another run,
    RuntimeError for degenerate weights where asked to raise.
    """
    exponent = check_target(target)
    shape = check_counts(shape, particles, populations)
    if isinstance(sigmas, Calibration):
        if proposal == "curvature_matched":
            proposal = CurvatureMatched(kappa=tuple(sigmas.kappa))
        sigmas = sigmas.sigmas
    levels = check_sigmas(sigmas)
    ends_at_zero = levels[-1] == 0
    visited = levels[:-1] if ends_at_zero else levels
    kernel = as_proposal(proposal, len(visited) - 1)
    _check_options(resampling, ess_threshold, sigma_range, on_degenerate, compile)
    place_device, place_dtype = place(target, device, dtype)
    run = {
        "sigmas": levels,
        "shape": list(shape),
        "particles": particles,
        "populations": populations,
        "first_population": first_population,
        "proposal": repr(kernel),
        "ess_threshold": ess_threshold,
        "sigma_range": [str(bound) for bound in sigma_range],
        "seed": seed,
        "dtype": str(place_dtype),
        "target": fingerprint(target) if checkpoint or resume else "",
    }
    engine = _Engine(
        target,
        exponent,
        visited,
        kernel,
        ess_threshold,
        sigma_range,
        seed,
        first_population,
        batch_size,
    )
    with torch.no_grad():
        if resume is not None:
            state = load_state(resume, run, place_device)
        else:
            like = torch.empty(
                populations, particles, *shape, dtype=place_dtype, device=place_device
            )
            state = engine.start(like)
        bar = tqdm(
            total=len(visited) - 1,
            initial=state.index,
            disable=not progress,
            unit="step",
            desc="smc",
        )
        try:
            _report(callback, state, visited)
            while state.index < len(visited) - 1:
                engine.advance(state)
                bar.update()
                if checkpoint is not None and state.index % checkpoint_every == 0:
                    save_state(checkpoint, state, run)
                _report(callback, state, visited)
        except KeyboardInterrupt:
            if checkpoint is not None:
                save_state(checkpoint, state, run)
                warnings.warn(f"interrupted; the run is in {checkpoint}", stacklevel=2)
            raise
        finally:
            bar.close()
        result = engine.finish(state, levels)
    _tell_degenerate(result.degenerate, on_degenerate)
    return result


class _Engine:
    """The steps of one run; all state is in `State`."""

    def __init__(
        self,
        target: Any,
        exponent: float,
        levels: list[float],
        kernel: Proposal,
        ess_threshold: float,
        sigma_range: tuple[float, float],
        seed: int,
        first_population: int,
        batch_size: int | None,
    ) -> None:
        self.target, self.exponent, self.levels, self.kernel = target, exponent, levels, kernel
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

    def _weigh(self, state: State, threshold: float) -> Any:
        point = uniform(
            rng_state(self.seed, state.index, state.x.device), len(state.x), self.first_population
        )
        result = systematic_resample(state.log_weights, point, ess_threshold=threshold)
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


def _report(
    callback: Callable[[dict[str, Any]], None] | None, state: State, levels: list[float]
) -> None:
    if callback is not None:
        callback(
            {
                "i": state.index,
                "sigma": levels[state.index],
                "x": state.x,
                "energy": state.energy,
                "score": state.score,
                "log_weights": state.log_weights,
            }
        )


def _check_options(
    resampling: str,
    ess_threshold: float,
    sigma_range: tuple[float, float],
    on_degenerate: str,
    compile: bool,
) -> None:
    if resampling != "systematic":
        raise ValueError(f"unknown resampling {resampling!r}; known: systematic")
    if not 0.0 <= ess_threshold <= 1.0:
        raise ValueError(f"ess_threshold must be in [0, 1], got {ess_threshold}")
    low, high = sigma_range
    if not 0.0 <= low < high:
        raise ValueError(f"sigma_range must be (lo, hi) with 0 <= lo < hi, got {sigma_range}")
    if on_degenerate not in ("warn", "raise"):
        raise ValueError(f"on_degenerate must be 'warn' or 'raise', got {on_degenerate!r}")
    if compile:
        raise ValueError("compile=True is not supported by this version: the loop runs eagerly")


def _tell_degenerate(degenerate: Tensor, on_degenerate: str) -> None:
    flags = degenerate.cpu()
    if not flags.any():
        return
    counts = {
        "NaN weights": int((flags & 1).ne(0).sum()),
        "all weights zero": int((flags & 2).ne(0).sum()),
        "infinite weights": int((flags & 4).ne(0).sum()),
    }
    told = ", ".join(
        f"{name} in {n} of {len(flags)} populations" for name, n in counts.items() if n
    )
    if on_degenerate == "raise":
        raise RuntimeError(f"degenerate weights: {told}")
    warnings.warn(f"degenerate weights: {told}", DegenerateWeightsWarning, stacklevel=3)
