"""The checks of a verdict: each returns findings about the record of a run. `judge` lists their bounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edmfast.ops.systematic_resample.operator import COLLAPSED, INFINITE, NAN_SEEN
from edmfast.smc.particles.data import NOT_FINITE, ParticleData
from edmfast.smc.particles.law_notes import EXACT
from edmfast.smc.verdict.advice import (
    CORRECTORS,
    FAULTY_TARGET,
    LARGER_START,
    MORE_LEVELS,
    MORE_PARTICLES,
    WEAKER_TARGET,
)
from edmfast.smc.verdict.not_judged import (
    FEWEST_FOR_TAIL,
    FEWEST_PARTICLES,
    FEWEST_POPULATIONS,
    keeps_one_particle,
)
from edmfast.smc.verdict.pareto import pareto_k
from edmfast.smc.verdict.verdict import Finding

_DOUBTFUL, _DEGENERATE = 1, 2
_FEWEST_AT_START = 8
_MOST_TAILS = 32
"""Only so many evenly spaced populations have their tails fitted, since a fit holds many numbers for each."""


def bad_values(particles: ParticleData) -> list[Finding]:
    """Return findings about weights and states that were NaN, infinite or all zero."""
    flags = particles.degenerate.cpu()
    populations = len(flags)
    findings = []
    for flag, fault in (
        (NAN_SEEN, "weights were NaN"),
        (INFINITE, "weights were infinite"),
        (NOT_FINITE, "states were NaN or infinite"),
        (COLLAPSED, "all weights were zero"),
    ):
        count = int((flags & flag).ne(0).sum())
        if count:
            # populations that collapsed leave the others right; the other faults are those of the target
            mild = flag == COLLAPSED and 2 * count < populations
            rank = _DOUBTFUL if mild else _DEGENERATE
            reason = f"{fault} in {count} of {populations} populations"
            findings.append(Finding(rank, reason, (FAULTY_TARGET,)))
    return findings


def far_start(particles: ParticleData) -> list[Finding]:
    """Return a finding where few of the starting particles have a weight."""
    populations, size = particles.x.shape[:2]
    ess = _usual_worst(particles, particles.ess[0], lowest=True)
    if size < FEWEST_PARTICLES and particles.law.startswith(EXACT):
        # few particles say little alone, but all populations start alike
        alike = populations if particles.one_target is not False else 1
        size, ess = size * alike, float(particles.ess[0].sum()) if alike > 1 else ess
    # A NaN fails `ess < bound` and gives no finding here, because `bad_values` reports it.
    if size < _FEWEST_AT_START or not ess < max(size / 10, min(16, size / 4)):
        return []
    return [
        Finding(
            _DEGENERATE if ess < max(size / 100, 2) else _DOUBTFUL,
            f"the start is far from the target: the effective sample size is {_number(ess)} of {size} particles "
            f"at sigma = {float(particles.sigmas[0]):.3g}",
            (LARGER_START, MORE_PARTICLES),
        )
    ]


def low_ess(particles: ParticleData) -> list[Finding]:
    """Return a finding where the effective sample size falls too low at a level after the start."""
    size = particles.x.shape[1]
    if size < FEWEST_PARTICLES or len(particles.ess) < 2 or keeps_one_particle(particles):
        return []
    # another check judges the start
    lowest, level = particles.ess[1:].cpu().min(0)
    ess = _usual_worst(particles, lowest, lowest=True)
    if not ess < max(min(0.08 * size, 100), min(10, size / 6)):
        return []
    # the reason names the level at which the population with this lowest size has it
    nearest = int((lowest - ess).abs().argmin())
    sigma = float(particles.sigmas[1 + int(level[nearest])])
    return [
        Finding(
            _DEGENERATE if ess < 3 else _DOUBTFUL,
            f"the effective sample size falls to {_number(ess)} of {size} particles at sigma = {sigma:.3g}",
            (MORE_LEVELS, MORE_PARTICLES, WEAKER_TARGET),
        )
    ]


def few_ancestors(particles: ParticleData) -> list[Finding]:
    """Return a finding where the final particles descend from few of the starting particles."""
    populations, size = particles.x.shape[:2]
    # correctors move copies of one ancestor apart, so few ancestors are no fault then
    corrected = particles.acceptance is not None
    if size < FEWEST_PARTICLES or keeps_one_particle(particles) or corrected:
        return []
    count = _usual_worst(particles, particles.unique_ancestors.double(), lowest=True)
    if not count < 5:
        return []
    total = int(particles.unique_ancestors.sum())
    in_all = f" ({total} in all {populations} populations)" if populations > 1 else ""
    return [
        Finding(
            _DEGENERATE if count <= 2 else _DOUBTFUL,
            f"only {_number(count)} of the {size} starting particles of a population have descendants at the end"
            f"{in_all}",
            (MORE_LEVELS, MORE_PARTICLES, CORRECTORS),
        )
    ]


def uncertain_log_z(particles: ParticleData) -> list[Finding]:
    """Return a finding where the weights vary so much during the run that log Z is uncertain."""
    if particles.x.shape[1] < FEWEST_PARTICLES or keeps_one_particle(particles):
        return []
    sd = _usual_worst(particles, predicted_log_z_sd(particles), lowest=False)
    if not sd > 1:
        return []
    return [
        Finding(
            _DEGENERATE if sd > 3 else _DOUBTFUL,
            "the weights vary so much during the run that log Z of one population is uncertain by "
            f"±{_number(sd)} nats",
            (MORE_LEVELS, MORE_PARTICLES, WEAKER_TARGET),
        )
    ]


def predicted_log_z_sd(particles: ParticleData) -> Tensor:
    """Return the standard deviation of log Z that the effective sample sizes predict, float64 [P] in nats."""
    ess, size = particles.ess.cpu().double(), particles.x.shape[1]
    counted = particles.resampled.cpu().clone()
    # weights that were not resampled away count at the end
    counted[-1] = True
    # A collapsed population has the effective size 0, which would divide by zero.
    variance: Tensor = ((size / ess.clamp(min=1) - 1) / size * counted).sum(0)
    return variance.sqrt()


def disagreement_of_log_z(particles: ParticleData) -> list[Finding]:
    """Return a finding where few of the populations of one target carry the evidence."""
    log_z = particles.log_z.cpu().double()
    populations = len(log_z)
    if populations < FEWEST_POPULATIONS or particles.one_target is not True:
        return []
    log_z = log_z.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    # this is (sum Z)²/sum Z², computed without overflow
    carrying = float(1 / torch.softmax(log_z, 0).square().sum())
    if not (carrying < 4 and carrying < populations / 2):
        return []
    sd = float(log_z[log_z.isfinite()].std())
    return [
        Finding(
            _DEGENERATE if carrying < 1.5 else _DOUBTFUL,
            f"populations of one target disagree on log Z by {_number(sd)} nats (standard deviation): the "
            f"evidence rests on {carrying:.1f} of {populations} populations",
            (MORE_LEVELS, MORE_PARTICLES, WEAKER_TARGET),
        )
    ]


def heavy_tail(particles: ParticleData) -> list[Finding]:
    """Return a finding where the final weights have a tail so heavy that averages over them are unreliable."""
    populations, size = particles.x.shape[:2]
    if size < FEWEST_FOR_TAIL:
        return []
    # a run of many populations is judged by evenly spaced ones
    every = math.ceil(populations / _MOST_TAILS)
    # a heavy tail does no harm while most particles count
    harmless = particles.ess[-1, ::every].cpu() >= size / 2
    tails = pareto_k(particles.log_weights[::every]).cpu()
    # A tail that could not be fitted is no evidence.
    tails = torch.where(harmless | tails.isnan(), 0.0, tails)
    k = _usual_worst(particles, tails, lowest=False)
    if not k > 0.7:
        return []
    return [
        Finding(
            _DOUBTFUL,
            f"the final weights have a heavy tail: Pareto k̂ = {k:.2f}, above 0.7",
            (MORE_PARTICLES, WEAKER_TARGET, MORE_LEVELS),
        )
    ]


def _usual_worst(particles: ParticleData, values: Tensor, *, lowest: bool) -> float:
    """Return the value that half of the populations are no better than; a tenth where each has its own target."""
    # Other populations of one target make up for a bad one, but every target of its own needs an
    # answer.
    share = 0.5 if particles.one_target is not False else 0.1
    ordered = values.cpu().double().sort(descending=not lowest).values
    return float(ordered[math.ceil(share * len(ordered)) - 1])


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"
