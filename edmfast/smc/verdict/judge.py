"""Judge whether the weights of a run can be trusted, from what the run itself recorded.

| evidence                                   | doubtful                                  | degenerate        |
|--------------------------------------------|-------------------------------------------|-------------------|
| ESS at the start                           | below N/10, or 16                         | below N/100, or 2 |
| lowest ESS at a later level                | below min(0.08 N, 100), or 10             | below 3           |
| starting particles with descendants        | below 5                                   | 2 or fewer        |
| sd of log Z of one population, by the ESS  | above 1 nat                               | above 3 nats      |
| populations that carry the evidence of P   | fewer than 4 and than P/2                 | fewer than 1.5    |
| tail index k̂ of the final weights          | above 0.7, where their ESS is below N/2   | -                 |
| weights that are NaN, infinite or all zero | all zero in some populations              | any other         |

ESS is the effective sample size and sd the standard deviation.

- The first three rows are judged in each population of at least 32 particles, and k̂ in each of at least 100. With
  fewer particles, the start of an exact law is judged over all populations together, if they have 8 particles.
- A finding counts where half of the populations show it, because the other populations of one target make up for a
  bad one. Where every population has its own target, it counts where a tenth of them show it.
- The second bounds on the ESS are for populations of few particles. They are at most a quarter of N at the
  start, and a sixth of N later.
- The predicted sd of log Z is the root of the sum of (N/ESS - 1)/N over all resamplings and the end. This is
  the part of the variance that comes from particles with a weight. The plain sum of the variances of
  log-weights says little, since particles without weight dominate it.
- The number of populations that carry the evidence is (sum Z)²/sum Z².
- k̂ is the index of a Pareto tail, see `edmfast.smc.verdict.pareto`.

None of this shows a mode that no particle has visited. docs/verdict.md, made by
`python -m bench.studies.verdict`, shows on targets with known answers what these bounds find and what they miss.
"""

from __future__ import annotations

from edmfast.smc.particles.data import ParticleData
from edmfast.smc.verdict.advice import applicable_advice
from edmfast.smc.verdict.findings import (
    bad_values,
    disagreement_of_log_z,
    far_start,
    few_ancestors,
    heavy_tail,
    low_ess,
    uncertain_log_z,
)
from edmfast.smc.verdict.not_judged import has_equal_weights, not_judged
from edmfast.smc.verdict.verdict import LEVELS, Verdict


def judge(particles: ParticleData, *, flags: bool = True, pooled: bool = True) -> Verdict:
    """Return the verdict on a finished run, computed on the host.

    flags: count weights that were NaN, infinite or all zero. pooled: judge whether populations agree on log Z.
    """
    findings = bad_values(particles) if flags else []
    # equal weights of a sampler without energies say nothing about its result
    if not has_equal_weights(particles):
        findings += far_start(particles)
        findings += low_ess(particles)
        findings += few_ancestors(particles)
        findings += uncertain_log_z(particles)
        findings += heavy_tail(particles)
        findings += disagreement_of_log_z(particles) if pooled else []
    # sorting is stable, so findings of one rank keep this order
    findings.sort(key=lambda finding: -finding.rank)
    steps = [step for finding in findings for step in finding.advice]
    return Verdict(
        LEVELS[max((finding.rank for finding in findings), default=0)],
        tuple(finding.reason for finding in findings),
        tuple(applicable_advice(particles, steps)),
        not_judged(particles),
    )
