"""Sequential Monte Carlo along the noise levels of a diffusion, with exact weights.

The target is pi_sigma ∝ exp(-U(x, sigma)) with score S and exponent A. Particles start at x ~ N(0,
(sigma_max²/A) I) with log G_0 = -U + A |x|²/(2 sigma_max²). Each step s -> u moves them by the proposal and adds
log G = R - [U(x_u, u) - U(x_s, s)] to their log-weights, with R from `edmfast.ops.propagate`. A population is
resampled where its effective sample size falls below a fraction of N; log Z accumulates the log-mean-weights.
Models without an energy are weighed by matched reversals or by their scores, see
`edmfast.smc.feynman_kac`. No step reads a
device value on the host.
Source: Thornton et al. 2025, arXiv 2502.12786; Del Moral, Doucet and Jasra 2006 (SMC samplers).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.derivatives import refuse_run
from edmfast._internal.inference_mode import without_inference_mode
from edmfast._internal.noise_levels import check_squares
from edmfast._internal.numbers import as_seed, as_shape
from edmfast._internal.progress import progress_bar
from edmfast.ops._shared.counters import check_populations
from edmfast.smc.arguments import (
    as_counts,
    check_callback,
    check_instance,
    check_levels,
    check_resampling,
    place,
)
from edmfast.smc.calibration import Calibration
from edmfast.smc.checkpoint.description import describe_numbers, describe_run
from edmfast.smc.checkpoint.keeper import Keeper
from edmfast.smc.correctors import Corrector
from edmfast.smc.correctors.correction import make_corrector_moves
from edmfast.smc.distributed.share import Share
from edmfast.smc.feynman_kac.choose import choose_feynman_kac, kind_of_weights
from edmfast.smc.feynman_kac.notes import caveats
from edmfast.smc.options import (
    Checkpoint,
    Correction,
    Distribution,
    Reversal,
    RunOptions,
    as_checkpoint,
    as_correction,
    as_distribution,
    as_options,
    as_weights,
)
from edmfast.smc.particles.law_notes import NO_LOG_Z
from edmfast.smc.particles.particles import Particles
from edmfast.smc.populations.local import Populations
from edmfast.smc.populations.same_target import check_rows, has_one_target
from edmfast.smc.proposals import Proposal
from edmfast.smc.run import Run
from edmfast.smc.schedule import as_schedule
from edmfast.smc.state import State
from edmfast.smc.verdict.warn import warn_about_run
from edmfast.targets.proposed_by import weighed_target
from edmfast.targets.protocols import Model

Callback = Callable[[dict[str, Any]], None]


def sample(
    target: Model,
    shape: Sequence[int],
    sigmas: Tensor | Sequence[float] | Calibration,
    *,
    particles: int,
    populations: int = 1,
    proposal: str | Proposal | None = None,
    weights: str | Reversal = "auto",
    resampling: str = "systematic",
    ess_threshold: float = 0.5,
    sigma_range: tuple[float, float] | None = None,
    correction: Corrector | Sequence[Corrector] | Correction | None = None,
    seed: int = 0,
    compile: bool = False,
    progress: bool = False,
    callback: Callback | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    distribution: Distribution | None = None,
    options: RunOptions = RunOptions(),
) -> Particles:
    """Return weighted samples of the target at the last positive noise level.

    Args:
        target: an energy, with energy_and_score(x [B, *shape], sigma) -> ([B], like x) and an exponent A > 0, one
            number or one for each population; or a denoiser(x, sigma [B]) -> x0; or a target made of such. It may
            change what it is called with: the run is not affected. An infinite energy gives weight 0. That is
            exact only where it is infinite at the last level alone: at several levels the weights are biased.
            A target bound to conditions [P, ...] by `edmfast.Conditioned` has one condition per population.
            The moves follow another model's score where the target is a `targets.ProposedBy`.
        shape: of one sample.
        sigmas: noise levels in units of x, strictly decreasing and positive; a last 0 adds one deterministic
            denoising step. A `Calibration` brings its own levels, and its tables for the proposal and the probes.
        particles, populations: N and P. Populations are independent of each other.
        proposal: "euler", "ancestral", "noise_matched", "curvature_matched" (the default with an energy),
            "feynman_kac" (the one of weights="score"), "superdiff", or a `Proposal`. Reversals have their own.
        weights: "energy" (exact); "reversal" (matched reversals of denoisers or energies, whose error falls as
            tau²); "hybrid" (energies at high noise, reversals below a level); "score" (Feynman–Kac correctors,
            exact for small steps only); or `Reversal` or `Hybrid` with their probes and level. "auto" takes
            energies where there are any, hybrid weights for learned energies (`EnergyModel`, `TwoHeads`) and their
            products of powers, and reversals for a power, product or guidance of denoisers. The result's `law`
            says what was done and what is known of it.
        resampling: a scheme of `edmfast.ops.resample`, or "select": all slots take one particle, drawn with
            the weights (SVDD).
        ess_threshold: resample below this fraction of N; 0 never does.
        sigma_range: (lo, hi). Below lo, weights stop and the same proposal runs on unweighted; resampling happens
            from hi down to lo. By default all levels, or (sigma_lo, inf) of a `Calibration`, where its weights
            end.
        correction: a corrector (`ULA`, `MALA`, `HMC` or `Underdamped`), several of them, or a `Correction` with
            its range of noise levels and waste-free chains.
        seed: 64-bit. A population gives the same result whatever P is.
        compile: trace and compile the step (seconds to minutes, once per call); numbers agree with the
            eager ones to rounding.
        progress: show a bar, or a line now and then where stderr is no terminal.
        callback: called with {"i", "sigma", "x", "energy", "score", "log_weights", "log_z"} after every level. The
            tensors are copies: changing them changes nothing else. "energy" is None in runs that weigh by scores,
            "log_z" in runs without weights. The weights are those before resampling, except where correctors have
            moved the resampled particles; log_z [P] includes all of them.
        checkpoint: a path that is written now and then, or a `Checkpoint` with more choices.
        distribution: a `Distribution` over the ranks of a process group, or None for one process.
        options: `RunOptions`: device, dtype, batch size, genealogy, and what degenerate weights lead to.

    Raises ValueError or TypeError for bad arguments or a checkpoint of another run, FileExistsError for a
    checkpoint of an earlier run that would be replaced, and RuntimeError for degenerate weights with
    on_degenerate="raise".
    """
    check_instance("target", target)
    check_callback(callback)
    refuse_run("smc.sample", target)
    shape, seed = as_shape("shape", shape), as_seed(seed)
    particles, populations = as_counts(particles, populations)
    weights = as_weights(weights)
    # where reversals weigh, no noise of energies ends the weights
    truncates = kind_of_weights(target, weights, proposal) in ("energy", "score")
    schedule = as_schedule(sigmas, sigma_range, ess_threshold, truncates=truncates)
    check_resampling(resampling)
    correction, checkpoint = as_correction(correction), as_checkpoint(checkpoint)
    distribution, options = as_distribution(distribution), as_options(options)
    first_population = distribution.first_population
    check_populations(first_population, populations)
    # parts that end at a certain noise level must reach it while there are weights
    check_levels(target, schedule.weighed_levels)
    device, dtype = place(target, options.device, options.dtype)
    check_squares(schedule.all_levels, dtype)

    # without a group this process holds the whole run, and no code for ranks is called
    local_target, held = target, Populations(first_population, resampling)
    count, size, share = populations, particles, None
    if distribution.group is not None:
        share = Share(distribution, populations, particles, device, resampling)
        share.check_options(resampling, compiled=compile, corrected=bool(correction.correctors))
        local_target, held = share.cut(target), share.held
        count, size = share.populations, share.particles
    keeper = Keeper(checkpoint, share)
    phases = choose_feynman_kac(
        local_target,
        proposal,
        weights,
        schedule.kappa,
        populations=count,
        levels=schedule.levels,
        device=device,
        batch_size=options.batch_size,
        switch=schedule.switch,
        table=schedule.probes,
    )
    fk = phases.first
    moves = make_corrector_moves(correction, fk, particles, len(schedule.levels))
    if moves.correctors:
        phases = phases.for_correctors()
    # resampling moves particles between the slots of a population, so they must have one target
    if (schedule.ess_threshold > 0 or moves.correctors) and fk.log_z_note != NO_LOG_Z:
        check_rows(weighed_target(target), populations)
    notes = caveats(resampling, schedule.sigma_range[0], schedule.levels[-1], moves.unadjusted)
    run = Run(
        phases.with_notes(notes),
        held,
        moves,
        schedule,
        count=count,
        seed=seed,
        device=device,
        compile=compile,
        genealogy=options.genealogy,
        one_target=has_one_target(weighed_target(target), populations),
    )

    whole, like = (populations, particles, *shape), torch.empty(0, dtype=dtype, device=device)
    description = _describe(run, target, whole, first_population, like, options, keeper, share)
    # Scores are derivatives, in which tensors of inference mode cannot take part.
    with without_inference_mode(), torch.no_grad():
        state = keeper.load(description, device)
        if state is None:
            state = run.start(like.new_empty((count, size, *shape)))
        speaks = share is None or share.speaks
        _advance_to_the_end(run, state, keeper, description, callback, progress and speaks)
        result = run.finish(state)
        if share is not None and distribution.gather:
            result = share.complete(result)
    # one rank warns for all, unless each has a result of its own
    if speaks or not distribution.gather or options.on_degenerate == "raise":
        warn_about_run(result, options.on_degenerate, stacklevel=3)
    return result


def _describe(
    run: Run,
    target: Model,
    size: tuple[int, ...],
    first_population: int,
    like: Tensor,
    options: RunOptions,
    keeper: Keeper,
    share: Share | None,
) -> dict[str, Any]:
    """Return the description of a run in which its checkpoints and its ranks must agree.

    size: P, N and the shape of a sample, of the whole run. like: a tensor of the dtype and device of the states.
    Raises ValueError on all ranks where they differ.
    """
    # a digest of the target takes time, and its numbers take evaluations: most runs need neither
    if share is None and not keeper.used:
        return {}
    description = describe_run(run, target, size, first_population, like.dtype)
    if share is not None:
        keeper.agree(share, description)
    if keeper.used:
        levels, batch_size = run.levels, options.batch_size
        description |= describe_numbers(target, levels, size, batch_size, like)
    return description


def _advance_to_the_end(
    run: Run,
    state: State,
    keeper: Keeper,
    description: dict[str, Any],
    callback: Callback | None,
    shown: bool,
) -> None:
    """Make all steps that are left, with progress, checkpoints and callbacks. shown: show the progress."""
    steps = len(run.levels) - 1
    bar = progress_bar(steps, desc="smc", initial=state.index, disable=not shown)
    try:
        _report(callback, state, run)
        while state.index < steps:
            run.advance(state)
            bar.update()
            keeper.after_step(state, description)
            _report(callback, state, run)
    # Ctrl-C, which is no Exception, must leave a checkpoint too.
    except BaseException as error:
        run.settle(state)
        keeper.rescue(error, state, description)
        raise
    finally:
        bar.close()


def _report(callback: Callback | None, state: State, run: Run) -> None:
    if callback is None:
        return
    particles, weights = state.particles, state.particles.weights
    # log_z of resampled populations includes the log-mean-weight of this level already
    log_z = weights.log_z + torch.where(weights.resampled, 0.0, weights.log_mean)
    callback(
        {
            "i": state.index,
            "sigma": run.levels[state.index],
            "x": particles.x.clone(),
            "energy": particles.energy.clone() if run.fk.has_energy else None,
            "score": particles.score.clone(),
            "log_weights": weights.log_weights.clone(),
            "log_z": None if run.fk.log_z_note == NO_LOG_Z else log_z,
        }
    )
    run.after_callback()
