"""Sequential Monte Carlo along the noise levels of a diffusion, with exact weights.

Target pi_sigma ∝ exp(-U(x, sigma)) with score S and exponent A. Start x ~ N(0, (sigma_max²/A) I) with
log G_0 = -U + A |x|²/(2 sigma_max²); each step s -> u moves by the proposal and adds
log G = R - [U(x_u, u) - U(x_s, s)], R from `edmfast.ops.propagate`. A population is resampled
(systematically by default) where its effective sample size falls below a fraction of N; log Z accumulates the
log-mean-weights. Models without an energy are weighed by their scores, see `edmfast.smc.score_only`.
Nothing on the path reads a device value on the host.
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

from edmfast.ops.schemes import SCHEMES
from edmfast.smc.calibration import Calibration
from edmfast.smc.engine import Engine
from edmfast.smc.make_law import make_law
from edmfast.smc.particles import DegenerateWeightsWarning, Particles
from edmfast.smc.proposals import Proposal
from edmfast.smc.schedule import check_counts, check_sigmas, place
from edmfast.smc.select import SELECT
from edmfast.smc.state import State, fingerprint, load_state, save_state


def sample(
    target: Any,
    shape: Sequence[int],
    sigmas: Tensor | Sequence[float] | Calibration,
    *,
    particles: int,
    populations: int = 1,
    proposal: str | Proposal | None = None,
    weights: str = "auto",
    proposal_model: Any = None,
    resampling: str = "systematic",
    ess_threshold: float = 0.5,
    sigma_range: tuple[float, float] = (0.0, math.inf),
    seed: int = 0,
    genealogy: bool = False,
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
        target: has energy_and_score(x [B, *shape], sigma) -> ([B], like x), tensors of its own that it does
            not change later, and exponent A > 0, one or one for each population. An infinite energy is a
            wall: weight 0. One bound to conditions [P, ...] by `edmfast.Conditioned` has one condition per
            population. Or a denoiser(x, sigma) -> x0, or a target made of such.
        shape: of one sample. sigmas: strictly decreasing, positive, in units of x; a last 0 adds one
            deterministic denoising step. A `Calibration` brings its own levels and kappa table.
        particles, populations: N and P; populations are independent of each other.
        proposal: "euler", "ancestral", "noise_matched", "curvature_matched" (the default with an energy),
            "feynman_kac" (the default without), "superdiff", or a Proposal.
        weights: "energy" (exact), "score" (the Feynman-Kac corrector, exact for small steps only), "auto":
            energies where there are any. The result's `law` says what was done and what is known of it.
        proposal_model: whose score the proposal follows instead of the target's; the weights stay exact.
        resampling: a scheme of `edmfast.ops.resample`, or "select": all slots take one particle, drawn with
            the weights (SVDD).
        ess_threshold: resample below this fraction of N; 0 never does.
        sigma_range: (lo, hi). Below lo, weights stop and the same kernel runs on unweighted; resampling
            happens from hi down to lo.
        compile: trace and compile the step (seconds to minutes, once per call); numbers agree with the
            eager ones to rounding.
        genealogy: keep who took which ancestor at every level, int32 [T, P, N].
        seed: 64-bit. Population p has the same numbers for every P, batch_size aside from rounding;
            first_population is the index of the first one, to split a run over calls.
        callback: gets {"i", "sigma", "x", "energy", "score", "log_weights"} after every level.
        checkpoint: file written every `checkpoint_every` steps and on Ctrl-C; resume: such a file; the
            run then ends in the same bits as an uninterrupted one.
        batch_size: most rows per call of the target.
        on_degenerate: "warn" or "raise".
        device, dtype (float32 or float64): of the states; by default those of the target's tensors.

    Returns `Particles`. Raises ValueError or TypeError for bad arguments or a checkpoint of another run,
    RuntimeError for degenerate weights where asked to raise.
    """
    shape = check_counts(shape, particles, populations)
    kappa: tuple[float, ...] | None = None
    if isinstance(sigmas, Calibration):
        kappa, sigmas = tuple(sigmas.kappa), sigmas.sigmas
    levels = check_sigmas(sigmas)
    visited = levels[:-1] if levels[-1] == 0 else levels
    _check_options(resampling, ess_threshold, sigma_range, on_degenerate)
    place_device, place_dtype = place(target, device, dtype)
    law = make_law(
        target,
        proposal,
        weights,
        proposal_model,
        kappa,
        populations=populations,
        steps=len(visited) - 1,
        device=place_device,
        resampling=resampling,
        first_population=first_population,
        batch_size=batch_size,
    )
    run = {
        "sigmas": levels,
        "shape": list(shape),
        "particles": particles,
        "populations": populations,
        "first_population": first_population,
        "proposal": repr(law.kernel),
        "law": law.told,
        "resampling": resampling,
        "ess_threshold": ess_threshold,
        "sigma_range": [str(bound) for bound in sigma_range],
        "seed": seed,
        "genealogy": genealogy,
        "dtype": str(place_dtype),
        "target": fingerprint([target, proposal_model]) if checkpoint or resume else "",
    }
    engine = Engine(
        law,
        visited,
        ess_threshold,
        sigma_range,
        seed,
        place_device,
        populations=populations,
        compile=compile,
        genealogy=genealogy,
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


def _report(
    callback: Callable[[dict[str, Any]], None] | None, state: State, levels: list[float]
) -> None:
    if callback is not None:
        callback(
            {
                "i": state.index,
                "sigma": levels[state.index],
                "x": state.moving.x,
                "energy": state.moving.energy,
                "score": state.moving.score,
                "log_weights": state.moving.weights.log_weights,
            }
        )


def _check_options(
    resampling: str,
    ess_threshold: float,
    sigma_range: tuple[float, float],
    on_degenerate: str,
) -> None:
    schemes = (*SCHEMES, SELECT)
    if resampling not in schemes:
        raise ValueError(f"unknown resampling {resampling!r}; known: {', '.join(schemes)}")
    if not 0.0 <= ess_threshold <= 1.0:
        raise ValueError(f"ess_threshold must be in [0, 1], got {ess_threshold}")
    low, high = sigma_range
    if not 0.0 <= low < high:
        raise ValueError(f"sigma_range must be (lo, hi) with 0 <= lo < hi, got {sigma_range}")
    if on_degenerate not in ("warn", "raise"):
        raise ValueError(f"on_degenerate must be 'warn' or 'raise', got {on_degenerate!r}")


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
