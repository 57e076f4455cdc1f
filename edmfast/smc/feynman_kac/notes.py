"""Say what the log Z of a run may be compared with, by the law that the run followed."""

from __future__ import annotations

from typing import Any

from edmfast.smc.particles.law_notes import NO_LOG_Z, OF_CORRECTOR, OF_REWARDS
from edmfast.targets.gauges import meaning_of_log_z


def of_energies(target: Any) -> str:
    """Return the note on weights from energies."""
    return meaning_of_log_z(target)


def of_scores(*, weighed: bool, rewarded: bool) -> str:
    """Return the note on weights from scores. weighed: by a corrector; rewarded: by rewards."""
    if weighed:
        return OF_CORRECTOR
    return OF_REWARDS if rewarded else NO_LOG_Z
