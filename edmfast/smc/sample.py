"""Sequential Monte Carlo along the noise levels of a diffusion, with exact weights.

Target pi_sigma ∝ exp(-U(x, sigma)) with score S and exponent A. Start x ~ N(0, (sigma_max²/A) I) with
log G_0 = -U + A |x|²/(2 sigma_max²); each step s -> u moves by the proposal and adds
log G = R - [U(x_u, u) - U(x_s, s)], R from `edmfast.ops.propagate`. A population is resampled
(systematically by default) where its effective sample size falls below a fraction of N; log Z accumulates the
log-mean-weights. Models without an energy are weighed by their scores, see `edmfast.smc.feynman_kac.scores`.
Nothing on the path reads a device value on the host.
Source: Thornton et al. 2025, arXiv 2502.12786; Del Moral, Doucet and Jasra 2006 (SMC samplers).
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from edmfast._internal.derivatives import refuse_run
from edmfast._internal.inference_mode import without_inference_mode
from edmfast._internal.numbers import as_float, as_int, as_range, as_seed, as_shape
from edmfast._internal.progress import progress_bar
from edmfast.ops._shared.counters import check_populations
from edmfast.ops.resample.operator import SCHEMES
from edmfast.smc.arguments import (
    as_batch_size,
    as_counts,
    check_levels,
    check_range,
    check_sigmas,
    place,
)
from edmfast.smc.calibration import Calibration
from edmfast.smc.checkpoint.keeper import Keeper
from edmfast.smc.checkpoint.probes import probe, tolerance_of
from edmfast.smc.correctors import Corrector
from edmfast.smc.correctors.correction import make_correction
from edmfast.smc.distributed.share import Share
from edmfast.smc.feynman_kac.base import FeynmanKac
from edmfast.smc.feynman_kac.choose import choose_feynman_kac
from edmfast.smc.particles.law_notes import NO_LOG_Z, ONE_PARTICLE
from edmfast.smc.particles.particles import Particles
from edmfast.smc.populations.same_target import check_rows, has_one_target
from edmfast.smc.populations.select import SELECT
from edmfast.smc.proposals import Proposal
from edmfast.smc.run import Run, Schedule
from edmfast.smc.state import State, fingerprint
from edmfast.smc.verdict.warn import ON_DEGENERATE, warn_about_run


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
    sigma_range: tuple[float, float] | None = None,
    correctors: Corrector | Sequence[Corrector] = (),
    corrector_range: tuple[float, float] = (0.0, math.inf),
    waste_free: int | None = None,
    seed: int = 0,
    genealogy: bool = False,
    compile: bool = False,
    progress: bool = False,
    callback: Callable[[dict[str, Any]], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 8,
    resume: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    first_population: int = 0,
    batch_size: int | None = None,
    on_degenerate: str = "warn",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    group: dist.ProcessGroup | None = None,
    split: str = "populations",
    gather: bool = True,
) -> Particles:
    """Weighted samples of the target at the last positive noise level.

    Args:
        target: has energy_and_score(x [B, *shape], sigma) -> ([B], like x), and exponent A > 0, one or one
            for each population. It may change what it is given: the run is not
            affected. An infinite energy gives weight 0. That is exact only where it is infinite at the last
            level alone: at several levels the weights are biased. One bound to conditions [P, ...] by
            `edmfast.Conditioned` has one condition per population. Or a denoiser(x, sigma [B]) -> x0, or a
            target made of such.
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
        sigma_range: (lo, hi); by default (sigma_lo, inf) of a `Calibration`, which is where its weights end, and
            else everything. Below lo, weights stop and the same kernel runs on unweighted; resampling
            happens from hi down to lo.
        correctors: `ULA`, `MALA`, `HMC` or `Underdamped`, each applied in turn after the decision at every level
            of corrector_range = (lo, hi). The adjusted ones leave weights and log Z exact.
        waste_free: L. Of N = M L particles, M are resampled and moved L - 1 times by the correctors, and all
            states are particles (Dau and Chopin 2022). Populations that are not resampled stay as they
            are, so it is meant for ess_threshold=1; nothing is done at levels where resampling is not allowed.
        compile: trace and compile the step (seconds to minutes, once per call); numbers agree with the
            eager ones to rounding.
        genealogy: keep who took which ancestor at every level, int32 [T, P, N].
        seed: 64-bit. Population p gives the same result whatever P is; batch_size changes it by rounding only.
            first_population is the index of the first one, to split a run over calls.
        progress: show a bar, or a line now and then where stderr is no terminal.
        callback: gets {"i", "sigma", "x", "energy", "score", "log_weights", "log_z"} after every level. The
            tensors are copies: changing them changes nothing else. "energy" is None in runs that weigh by scores,
            "log_z" in runs that weigh nothing. The weights are those before resampling,
            unless correctors have moved who came out of it; log_z [P] has all of them.
        checkpoint: file written every `checkpoint_every` steps, and on Ctrl-C or any other exception after
            the last whole step. Where it cannot be written the run goes on and warns; the last step of a run
            that an error ends is then written to the folder for temporary files. resume: such a file; the run
            then ends in the same bits as an uninterrupted one. overwrite: replace what is at checkpoint though
            it is another run's, or no checkpoint at all, which otherwise raises FileExistsError.
        batch_size: most rows per call of the target.
        on_degenerate: what to do about weights that were NaN, infinite or all zero: "warn" or "raise". Both also
            warn where the result's `verdict` is doubtful; "ignore" leaves all of it to who reads the result.
        device, dtype (float32 or float64): of the states; by default those of the target's tensors.
        group: of torch.distributed, all of whose ranks call with the same arguments, each with the target on
            its own device. Particles have the bits of one process, but for what the target makes of other
            batches; log_weight_sd may differ by rounding.
        split: "populations" (each rank runs some of them) or "particles" (each rank holds N/ranks of every
            population; systematic resampling only, not compiled). A callback sees what its rank holds. A
            checkpoint is written by rank 0, read by all, that of one process, and goes on with any number of
            ranks; none is written on Ctrl-C or another exception. Where a rank dies, the others raise an
            error, at the latest after the group's timeout.
        gather: give every rank the whole result; False, for populations only: what it ran.

    Returns `Particles`. Raises ValueError or TypeError for bad arguments or a checkpoint of another run,
    RuntimeError for degenerate weights where asked to raise.
    """
    refuse_run("smc.sample", target, proposal_model)
    shape = as_shape("shape", shape)
    particles, populations = as_counts(particles, populations)
    seed, batch_size = as_seed(seed), as_batch_size(batch_size)
    ess_threshold = as_float("ess_threshold", ess_threshold, least=0, most=1)
    sigma_range = None if sigma_range is None else as_range("sigma_range", sigma_range)
    corrector_range = as_range("corrector_range", corrector_range)
    waste_free = None if waste_free is None else as_int("waste_free", waste_free, least=2)
    checkpoint_every = as_int("checkpoint_every", checkpoint_every, least=1)
    first_population = as_int("first_population", first_population, least=0)
    check_populations(first_population, populations)
    kappa: tuple[float, ...] | None = None
    if isinstance(sigmas, Calibration):
        kappa = tuple(sigmas.kappa)
        sigma_range = (sigmas.sigma_lo, math.inf) if sigma_range is None else sigma_range
        sigmas = sigmas.sigmas
    sigma_range = (0.0, math.inf) if sigma_range is None else sigma_range
    levels = check_sigmas(sigmas)
    visited = levels[:-1] if levels[-1] == 0 else levels
    # what is to be whole at the end must be so while there are weights
    check_levels(target, [level for level in visited if level >= sigma_range[0]])
    _check_options(resampling, on_degenerate)
    place_device, place_dtype = place(target, device, dtype)
    check_range(levels, place_dtype)
    share = Share(group, split, populations, particles, place_device, first_population, resampling)
    _check_shared(share, resampling, compile, gather, bool(correctors))
    keeper = Keeper(checkpoint, checkpoint_every, resume, overwrite, share)
    fk = choose_feynman_kac(
        share.cut(target),
        proposal,
        weights,
        share.cut(proposal_model),
        kappa,
        populations=share.populations,
        steps=len(visited) - 1,
        device=place_device,
        batch_size=batch_size,
    )
    correction = make_correction(
        correctors, corrector_range, waste_free, fk, particles=particles, levels=len(visited)
    )
    if (ess_threshold > 0 or correction.correctors) and fk.log_z_note != NO_LOG_Z:
        check_rows(target, populations)
    notes = caveats(resampling, sigma_range[0], visited[-1], correction.correctors)
    fk = dataclasses.replace(fk, description=fk.description + notes)
    one_target = has_one_target(target, populations)
    run = {
        "sigmas": levels,
        "shape": list(shape),
        "particles": particles,
        "populations": populations,
        "first_population": first_population,
        "proposal": repr(fk.proposal),
        "law": fk.description,
        "resampling": resampling,
        "ess_threshold": ess_threshold,
        "sigma_range": [str(bound) for bound in sigma_range],
        "correction": repr(correction),
        "seed": seed,
        "genealogy": genealogy,
        "dtype": str(place_dtype),
        "target": fingerprint([target, proposal_model]) if checkpoint or resume or group else "",
    }
    with keeper.naming_fault():
        share.agree({**run, "checkpoint": keeper.told, "resume": bool(resume)})
    if checkpoint or resume:
        both, size = [target, proposal_model], (populations, particles, *shape)
        like = torch.empty(0, dtype=place_dtype, device=place_device)
        run["probes"] = probe(both, visited, size, batch_size, like)
        run["tolerance"] = tolerance_of(both, place_dtype)
    engine = Run(
        fk,
        share.held,
        correction,
        Schedule(visited, sigma_range, ess_threshold),
        count=share.populations,
        seed=seed,
        device=place_device,
        compile=compile,
        genealogy=genealogy,
    )
    with without_inference_mode(), torch.no_grad():
        if resume is not None:
            state = share.load(resume, run)
        else:
            size = share.populations, share.particles, *shape
            state = engine.start(torch.empty(size, dtype=place_dtype, device=place_device))
        silent = not (progress and share.speaks)
        bar = progress_bar(len(visited) - 1, desc="smc", initial=state.index, disable=silent)
        try:
            _report(callback, state, visited, fk)
            while state.index < len(visited) - 1:
                engine.advance(state)
                bar.update()
                keeper.after_step(state, run)
                _report(callback, state, visited, fk)
        except BaseException as error:
            keeper.rescue(error, state, run)
            raise
        finally:
            bar.close()
        result = engine.finish(state, levels, one_target=one_target)
        if gather:
            result = share.complete(result)
    if share.speaks or not gather or on_degenerate == "raise":
        warn_about_run(result, on_degenerate, stacklevel=3)
    return result


def _report(
    callback: Callable[[dict[str, Any]], None] | None,
    state: State,
    levels: list[float],
    fk: FeynmanKac,
) -> None:
    if callback is not None:
        weights = state.particles.weights
        # of resampled populations it has the mean already
        log_z = weights.log_z + torch.where(weights.resampled, 0.0, weights.log_mean)
        callback(
            {
                "i": state.index,
                "sigma": levels[state.index],
                "x": state.particles.x.clone(),
                "energy": state.particles.energy.clone() if fk.has_energy else None,
                "score": state.particles.score.clone(),
                "log_weights": weights.log_weights.clone(),
                "log_z": None if fk.log_z_note == NO_LOG_Z else log_z,
            }
        )


def caveats(
    resampling: str, weights_end: float, last: float, correctors: Sequence[Corrector]
) -> str:
    """Return how the options of a run weaken what is known of its law: text that begins with "; but", or "".

    weights_end: the lowest level that weighs. last: the last positive level.
    """
    text = ""
    if weights_end > last:
        text += (
            f"; but weights stop at sigma = {weights_end:g}, and below it the unweighted moves lead on, without "
            "what the target, its rewards or walls would weigh there"
        )
    if resampling == SELECT:
        text += f"; but {ONE_PARTICLE}: only averages over populations by Z keep that law"
    if any(not corrector.adjusted for corrector in correctors):
        text += "; but unadjusted correctors are off by their step size"
    return text


def _check_options(
    resampling: str,
    on_degenerate: str,
) -> None:
    schemes = (*SCHEMES, SELECT)
    if resampling not in schemes:
        raise ValueError(f"unknown resampling {resampling!r}; known: {', '.join(schemes)}")
    if on_degenerate not in ON_DEGENERATE:
        raise ValueError(
            f"on_degenerate must be one of {', '.join(ON_DEGENERATE)}, got {on_degenerate!r}"
        )


def _check_shared(
    share: Share, resampling: str, compile: bool, gather: bool, corrected: bool
) -> None:
    if share.shared is None:
        return
    if corrected:
        raise ValueError("split='particles' has no correctors: they go with split='populations'")
    if resampling != "systematic":
        raise ValueError(f"split='particles' resamples systematically, got {resampling!r}")
    if compile:
        raise ValueError("split='particles' does not compile: compile=True goes with populations")
    if not gather:
        raise ValueError(
            "gather=False goes with split='populations': a part of a population has no weights of its own"
        )
