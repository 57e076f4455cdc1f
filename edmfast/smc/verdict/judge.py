"""Judge whether the weights of a run can be trusted, from what the run itself recorded.

| evidence                                   | doubtful                                  | degenerate        |
|--------------------------------------------|-------------------------------------------|-------------------|
| ESS at the start                           | below N/10, or 16                         | below N/100, or 2 |
| lowest ESS at a later level                | below min(0.08 N, 100), or 10             | below 3           |
| starting particles with descendants        | below 5                                   | 2 or fewer        |
| sd of log Z of one population, by the ESS  | above 1 nat                               | above 3 nats      |
| populations that carry the evidence of P   | fewer than 4 and than P/2                 | fewer than 1.5    |
| tail index k̂ of the last weights           | above 0.7, where their ESS is below N/2   | -                 |
| weights that are NaN, infinite or all zero | all zero in some populations              | any other         |

The first three, and k̂, are judged in each population of 32 particles or more (k̂: 100). With fewer particles the
start of an exact law is judged over all populations together, if they have 8. These findings count where half of
the populations show them, or a tenth where populations have targets of their own, because the other populations
of one target put a bad one right. The second bound on the start and on the ESS is for few particles, of which it
takes no more than a quarter and a sixth. The predicted sd of log Z is the root of sum (N/ESS - 1)/N over the
resamplings and the end, which is the part of the variance of log-weights that particles with a weight have: the
plain sum of their variances says little, since particles of no weight dominate it.

The number of populations that carry the evidence is (sum Z)²/sum Z². k̂ is the index of a Pareto tail, see
`edmfast.smc.verdict.pareto`. What each bound finds and what it misses was measured on targets whose answer
is known: docs/verdict.md, made by `python -m bench.studies.verdict`. A mode that no particle has seen leaves
no trace in any of this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edmfast.ops.systematic_resample.operator import COLLAPSED, INFINITE, NAN_SEEN
from edmfast.smc.particles.data import NOT_FINITE, ParticleData
from edmfast.smc.particles.law_notes import OF_REWARDS
from edmfast.smc.verdict.not_judged import equal_weights, not_judged, one_survivor
from edmfast.smc.verdict.pareto import pareto_k

LEVELS = ("ok", "doubtful", "degenerate")
FEWEST_PARTICLES, FEWEST_FOR_TAIL = 32, 100
_FEWEST_AT_START = 8
_MOST_TAILS = 32
"""Populations whose tail is fitted, evenly spaced: the fit holds many numbers for each."""

_LARGER_START = "start from a larger sigma_max, so that N(0, sigma_max²/A) covers the target"
_MORE_LEVELS = (
    "take more noise levels there, or those of smc.calibrate; with a learned energy, stop weighting where "
    "calibrate says (sigma_range=(calibration.sigma_lo, inf))"
)
_MORE_LEVELS_ALONE = "take more noise levels there"
_WEAKER_REWARD = "take a smaller strength of the reward"
_MORE_PARTICLES = "take more particles"
_WEAKER = "take a weaker law (a smaller exponent, guidance weight or strength)"
_MOVE = "add correctors, such as smc.MALA(), so that copies of one ancestor move apart"
_FAULTY = "look for NaN or infinite energies of the target, or walls that no particle can pass"


@dataclass(frozen=True)
class Verdict:
    """A judgement of a run's weights by the run's own record.

    level: "ok", "doubtful" or "degenerate". reasons: sentences with the numbers, the worst one first. advice: what
    to change, in the same order. not_judged: what this run gives no evidence of. str() is a readable text.
    """

    level: str
    reasons: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    not_judged: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Return True where nothing speaks against the weights."""
        return self.level == "ok"

    def __str__(self) -> str:
        lines = [self.level]
        lines += [f"  {reason}" for reason in self.reasons]
        lines += [f"  try: {step}" for step in self.advice]
        lines += [f"  not judged: {gap}" for gap in self.not_judged]
        return "\n".join(lines)

    @property
    def short(self) -> str:
        """The worst reason, and what to try, in one line."""
        if not self.reasons:
            return self.level
        steps = "; or ".join(self.advice)
        return f"the weights of this run are {self.level}: {self.reasons[0]}. To try: {steps}."


@dataclass(frozen=True)
class _Finding:
    """rank: 1 doubtful, 2 degenerate."""

    rank: int
    reason: str
    advice: tuple[str, ...]


def judge(particles: ParticleData, *, flags: bool = True, pooled: bool = True) -> Verdict:
    """Return the verdict on a finished run, computed on the host.

    flags: count weights that were NaN, infinite or all zero. pooled: judge whether populations agree on log Z.
    """
    findings = _flags(particles) if flags else []
    if not equal_weights(particles):
        findings += [*_start(particles), *_lowest(particles), *_ancestors(particles)]
        findings += [*_predicted(particles), *_tail(particles)]
        findings += _spread(particles) if pooled else []
    findings.sort(key=lambda finding: -finding.rank)
    steps = [step for finding in findings for step in finding.advice]
    advice = dict.fromkeys(_fitting(particles, steps))
    return Verdict(
        LEVELS[max((finding.rank for finding in findings), default=0)],
        tuple(finding.reason for finding in findings),
        tuple(advice),
        not_judged(particles, FEWEST_PARTICLES, FEWEST_FOR_TAIL),
    )


def _fitting(particles: ParticleData, steps: list[str]) -> list[str]:
    """Return the advice that this kind of run can follow.

    Runs without energies have neither correctors nor a calibration. Where rewards alone weigh, the start is
    that of the sampler and cannot be the fault: the rewards are too strong for the number of particles.
    """
    if particles.law.startswith("exact"):
        return steps
    found = [_MORE_LEVELS_ALONE if step == _MORE_LEVELS else step for step in steps]
    if particles.log_z_note == OF_REWARDS:
        found = [_WEAKER_REWARD if step == _LARGER_START else step for step in found]
        found = [_WEAKER_REWARD, *found] if found else found
    return [step for step in found if step != _MOVE]


def _flags(particles: ParticleData) -> list[_Finding]:
    flags = particles.degenerate.cpu()
    populations = len(flags)
    found = []
    for flag, what in ((NAN_SEEN, "NaN"), (INFINITE, "infinite")):
        count = int((flags & flag).ne(0).sum())
        if count:
            reason = f"weights were {what} in {count} of {populations} populations"
            found.append(_Finding(2, reason, (_FAULTY,)))
    count = int((flags & NOT_FINITE).ne(0).sum())
    if count:
        reason = f"states were NaN or infinite in {count} of {populations} populations"
        found.append(_Finding(2, reason, (_FAULTY,)))
    count = int((flags & COLLAPSED).ne(0).sum())
    if count:
        reason = f"all weights were zero in {count} of {populations} populations"
        found.append(_Finding(2 if 2 * count >= populations else 1, reason, (_FAULTY,)))
    return found


def _start(particles: ParticleData) -> list[_Finding]:
    size = _size(particles)
    ess = _worst_usual(particles, particles.ess[0], lowest=True)
    if size < FEWEST_PARTICLES and particles.law.startswith("exact"):
        # few particles say little alone, but those of all populations start alike
        alike = _populations_count(particles) if particles.one_target is not False else 1
        size, ess = size * alike, float(particles.ess[0].sum()) if alike > 1 else ess
    if size < _FEWEST_AT_START or not ess < max(size / 10, min(16, size / 4)):
        return []
    return [
        _Finding(
            2 if ess < max(size / 100, 2) else 1,
            f"the start is far from the target: an effective sample size of {_number(ess)} of {size} particles at "
            f"sigma = {float(particles.sigmas[0]):.3g}",
            (_LARGER_START, _MORE_PARTICLES),
        )
    ]


def _lowest(particles: ParticleData) -> list[_Finding]:
    size = _size(particles)
    if size < FEWEST_PARTICLES or len(particles.ess) < 2 or one_survivor(particles):
        return []
    lowest, level = particles.ess[1:].cpu().min(0)
    ess = _worst_usual(particles, lowest, lowest=True)
    if not ess < max(min(0.08 * size, 100), min(10, size / 6)):
        return []
    nearest = int((lowest - ess).abs().argmin())
    sigma = float(particles.sigmas[1 + int(level[nearest])])
    return [
        _Finding(
            2 if ess < 3 else 1,
            f"the effective sample size falls to {_number(ess)} of {size} particles at sigma = {sigma:.3g}",
            (_MORE_LEVELS, _MORE_PARTICLES, _WEAKER),
        )
    ]


def _ancestors(particles: ParticleData) -> list[_Finding]:
    size = _size(particles)
    if size < FEWEST_PARTICLES or one_survivor(particles) or particles.acceptance is not None:
        return []
    left = _worst_usual(particles, particles.unique_ancestors.double(), lowest=True)
    if not left < 5:
        return []
    total = int(particles.unique_ancestors.sum())
    return [
        _Finding(
            2 if left <= 2 else 1,
            f"{_number(left)} of the {size} starting particles of a population have descendants at the end "
            f"({total} in {_populations(particles)} together)",
            (_MORE_LEVELS, _MORE_PARTICLES, _MOVE),
        )
    ]


def _predicted(particles: ParticleData) -> list[_Finding]:
    size = _size(particles)
    if size < FEWEST_PARTICLES or one_survivor(particles):
        return []
    sd = _worst_usual(particles, predicted_log_z_sd(particles), lowest=False)
    if not sd > 1:
        return []
    return [
        _Finding(
            2 if sd > 3 else 1,
            "the weights vary so much on the way that log Z of one population is uncertain by "
            f"±{_number(sd)} nats",
            (_MORE_LEVELS, _MORE_PARTICLES, _WEAKER),
        )
    ]


def predicted_log_z_sd(particles: ParticleData) -> Tensor:
    """Return the sd of log Z of each population in nats, float64 [P], that its effective sample sizes predict."""
    ess, size = particles.ess.cpu().double(), _size(particles)
    counted = particles.resampled.cpu().clone()
    counted[-1] = True
    return ((size / ess.clamp(min=1) - 1) / size * counted).sum(0).sqrt()


def _spread(particles: ParticleData) -> list[_Finding]:
    log_z = particles.log_z.cpu().double()
    populations = len(log_z)
    if populations < 4 or particles.one_target is not True:
        return []
    log_z = log_z.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    carrying = float(1 / torch.softmax(log_z, 0).square().sum())
    if not (carrying < 4 and carrying < populations / 2):
        return []
    spread = float(log_z[log_z.isfinite()].std())
    return [
        _Finding(
            2 if carrying < 1.5 else 1,
            f"log Z differs between populations of one target by {_number(spread)} nats (sd): "
            f"{carrying:.1f} of {populations} populations carry the evidence",
            (_MORE_LEVELS, _MORE_PARTICLES, _WEAKER),
        )
    ]


def _tail(particles: ParticleData) -> list[_Finding]:
    size = _size(particles)
    if size < FEWEST_FOR_TAIL:
        return []
    every = math.ceil(_populations_count(particles) / _MOST_TAILS)
    light = particles.ess[-1, ::every].cpu() >= size / 2
    tails = pareto_k(particles.log_weights[::every]).cpu()
    tails = torch.where(light | tails.isnan(), 0.0, tails)
    k = _worst_usual(particles, tails, lowest=False)
    if not k > 0.7:
        return []
    return [
        _Finding(
            1,
            f"the last weights have a heavy tail: Pareto k̂ = {k:.2f}, above 0.7",
            (_MORE_PARTICLES, _WEAKER, _MORE_LEVELS),
        )
    ]


def _worst_usual(particles: ParticleData, values: Tensor, *, lowest: bool) -> float:
    """The value that half of the populations do no better than; a tenth where each has a target of its own."""
    share = 0.5 if particles.one_target is not False else 0.1
    ordered = values.cpu().double().sort(descending=not lowest).values
    return float(ordered[math.ceil(share * len(ordered)) - 1])


def _size(particles: ParticleData) -> int:
    return int(particles.x.shape[1])


def _populations_count(particles: ParticleData) -> int:
    return int(particles.x.shape[0])


def _populations(particles: ParticleData) -> str:
    count = _populations_count(particles)
    return f"{count} populations" if count > 1 else "one population"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"
