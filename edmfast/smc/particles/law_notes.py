"""Phrases of `Particles.law` and `Particles.log_z_note` that other modules recognise.

The laws write them, and the summary and the verdict of a run look for them.
"""

from __future__ import annotations

NO_LOG_Z = "nothing was weighed, so log Z is 0 whatever the model is"
OF_REWARDS = "log of the mean of exp(strength · reward) under the sampler's own law"
OF_CORRECTOR = (
    "of the corrector's weights: up to a constant of the models and the start, and to the error of the "
    "steps"
)
ONE_PARTICLE = "a population goes on from one particle"
"""This phrase marks a run whose populations continue from a single particle at every level."""
