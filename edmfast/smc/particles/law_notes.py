"""Phrases of `Particles.law` and `Particles.log_z_note` that the summary and the verdict of a run recognise."""

from __future__ import annotations

EXACT = "exact"
"""`Particles.law` begins with this where weights come from energies."""
MATCHED = "reversal-matched"
"""`Particles.law` begins with this where matched reversals weigh all levels."""
UNWEIGHTED = ("plain sampler", "SuperDiff")
"""`Particles.law` begins with one of these where the moves carry no weights of their own."""
ONE_PARTICLE = "a population continues from one particle"
"""`Particles.law` holds this where every population continues from a single particle at every level."""
WEIGHTS_STOP = "weights stop at"
"""`Particles.law` holds this where weights end above the last noise level."""

NO_LOG_Z = "nothing was weighed, so log Z is 0 whatever the model is"
OF_REWARDS = "log of the mean of exp(strength · reward) under the sampler's own law"
OF_REVERSALS = (
    "relative to the start, of the models' normalised densities, up to the errors of the steps and of the start: "
    "comparable at equal sigma_max and exponent"
)
OF_CORRECTOR = (
    "from the corrector's weights: known up to a constant of the models and the start, and up to the error of "
    "the steps"
)
