"""Say what the log Z of a run may be compared with, by the law that the run followed."""

from __future__ import annotations

from typing import Any

from edmfast.targets.gauges import meaning_of_log_z

NO_LOG_Z = "nothing was weighed, so log Z is 0 whatever the model is"
OF_REWARDS = "log of the mean of exp(strength · reward) under the sampler's own law"
OF_CORRECTOR = (
    "of the corrector's weights: up to a constant of the models and the start, and to the error of the "
    "steps"
)


def of_energies(target: Any) -> str:
    """Return the note on weights from energies."""
    return meaning_of_log_z(target)


def of_scores(*, weighed: bool, rewarded: bool) -> str:
    """Return the note on weights from scores. weighed: by a corrector; rewarded: by rewards."""
    if weighed:
        return OF_CORRECTOR
    return OF_REWARDS if rewarded else NO_LOG_Z
