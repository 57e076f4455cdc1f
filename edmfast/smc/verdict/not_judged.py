"""Name what the record of a run gives no evidence of, so that a verdict does not pass over it in silence."""

from __future__ import annotations

from edmfast.smc.particles.data import ParticleData
from edmfast.smc.particles.law_notes import EXACT, ONE_PARTICLE, UNWEIGHTED, WEIGHTS_STOP
from edmfast.targets.gauges import OF_GAUGE

FEWEST_PARTICLES = 32
"""Particles of a population below which effective sample sizes and ancestors are not judged."""
FEWEST_FOR_TAIL = 100
"""Particles of a population below which the tail of the weights is not judged."""
FEWEST_POPULATIONS = 4
"""Populations below which their agreement on log Z is not judged."""


def has_equal_weights(particles: ParticleData) -> bool:
    """Return whether a run without energies weighed nothing, so that there are no weights to judge."""
    # rewards may still weigh the particles of a plain sampler
    unweighted = particles.law.startswith(UNWEIGHTED)
    return unweighted and not bool((particles.log_weight_sd != 0).any())


def keeps_one_particle(particles: ParticleData) -> bool:
    """Return whether every population is meant to continue from a single particle."""
    return ONE_PARTICLE in particles.law


def not_judged(particles: ParticleData) -> tuple[str, ...]:
    """Return a phrase for everything that the record of a run cannot show, each with the cause."""
    populations, size = particles.x.shape[:2]
    law = particles.law
    if has_equal_weights(particles):
        return (
            "the sampler's own steps and its start at sigma_max, because all weights are equal",
        )
    gaps = []
    # Normalised energies are densities in closed form, which leave no such question.
    if law.startswith(EXACT) and particles.log_z_note == OF_GAUGE:
        gaps.append(
            "how close a learned energy is to that of the data, because the weights take the energy as it is: "
            "edmfast.diagnostics measures how good it is"
        )
    if keeps_one_particle(particles):
        gaps.append(
            "the answer of a single population, because it continues from one particle: only averages over "
            "populations, weighted by their Z, follow the law"
        )
    if not law.startswith(EXACT):
        gaps.append(
            "the error of the steps and the size of sigma_max, because the weights come from scores, which show "
            "neither: compare with twice as many levels, and with a larger sigma_max"
        )
    if size < FEWEST_PARTICLES:
        gaps.append(
            "effective sample sizes and ancestors, because a population has fewer than "
            f"{FEWEST_PARTICLES} particles"
        )
    elif size < FEWEST_FOR_TAIL:
        gaps.append(
            "the tail of the weights, because a population has fewer than "
            f"{FEWEST_FOR_TAIL} particles"
        )
    gaps += _unjudged_spread(populations, particles.one_target)
    if particles.acceptance is not None:
        gaps.append("ancestors, because correctors move their copies apart")
    if WEIGHTS_STOP in law:
        gaps.append("the noise levels below the end of weighting, because nothing is weighed there")
    return tuple(gaps)


def _unjudged_spread(populations: int, one_target: bool | None) -> list[str]:
    """Return why the spread of log Z between populations is not judged; an empty list where it is."""
    if populations < FEWEST_POPULATIONS:
        cause = f"there are fewer than {FEWEST_POPULATIONS}"
    elif one_target is False:
        cause = "each of them has its own target"
    elif one_target is None:
        cause = "each of them may have its own target"
    else:
        return []
    return [f"the spread of log Z between populations, because {cause}"]
