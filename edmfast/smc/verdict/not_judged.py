"""Name what a run gives no evidence of: gaps that a verdict names instead of passing over."""

from __future__ import annotations

from edmfast.smc.particles.data import ParticleData
from edmfast.smc.particles.law_notes import ONE_PARTICLE
from edmfast.targets.gauges import OF_GAUGE


def equal_weights(particles: ParticleData) -> bool:
    """Return whether a run without energies weighed nothing, so that there are no weights to judge."""
    unweighted = particles.law.startswith(("plain sampler", "SuperDiff"))
    return unweighted and not bool((particles.log_weight_sd != 0).any())


def one_survivor(particles: ParticleData) -> bool:
    """Return whether populations are meant to go on from a single particle."""
    return ONE_PARTICLE in particles.law


def not_judged(particles: ParticleData, fewest: int, fewest_for_tail: int) -> tuple[str, ...]:
    """Return a sentence for everything that the record of a run cannot tell."""
    populations, size = particles.x.shape[:2]
    law = particles.law
    if equal_weights(particles):
        return (
            "all weights are equal: whether the sampler's own steps and its start at sigma_max are right leaves "
            "no trace in them",
        )
    found = []
    if law.startswith("exact") and particles.log_z_note == OF_GAUGE:
        found.append(
            "whether a learned energy is that of the data: the weights are those of the energy given, and "
            "edmfast.diagnostics measures how good it is"
        )
    if one_survivor(particles):
        found.append(
            "the answer of a single population, which goes on from one particle: averages over populations, "
            "weighted by their Z, follow the law"
        )
    if not law.startswith("exact"):
        found.append(
            "the weights come from scores: the error of the steps, and whether sigma_max is large enough, leave "
            "no trace in them"
        )
    if size < fewest:
        found.append(f"effective sample sizes and ancestors, with fewer than {fewest} particles")
    elif size < fewest_for_tail:
        found.append(f"the tail of the weights, with fewer than {fewest_for_tail} particles")
    if populations < 4:
        found.append("the spread of log Z between populations, of which there are fewer than 4")
    elif particles.one_target is False:
        found.append("the spread of log Z between populations, which have targets of their own")
    elif particles.one_target is None:
        found.append("the spread of log Z between populations, which may have targets of their own")
    if particles.acceptance is not None:
        found.append("ancestors, since correctors move their copies apart")
    if "weights stop at" in law:
        found.append("the levels below the end of weighting")
    return tuple(found)
