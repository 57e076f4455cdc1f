"""Notes on a run: what its log Z can be compared with, and which reservations its options add to its law."""

from __future__ import annotations

from typing import Any

from edmfast.smc.particles.law_notes import (
    NO_LOG_Z,
    OF_CORRECTOR,
    OF_REVERSALS,
    OF_REWARDS,
    ONE_PARTICLE,
)
from edmfast.smc.populations.select import SELECT
from edmfast.targets.gauges import meaning_of_log_z


def of_energies(target: Any) -> str:
    """Return the note on weights from energies."""
    return meaning_of_log_z(target)


def of_scores(*, weighed: bool, rewarded: bool) -> str:
    """Return the note on weights from scores. weighed: by a corrector. rewarded: by rewards."""
    if weighed:
        return OF_CORRECTOR
    return OF_REWARDS if rewarded else NO_LOG_Z


def of_reversals(*, rewarded: bool) -> str:
    """Return the note on weights from matched reversals. rewarded: rewards are part of the target."""
    return (
        f"{OF_REVERSALS}; the target includes exp(strength · reward)" if rewarded else OF_REVERSALS
    )


def caveats(resampling: str, weights_end: float, last: float, unadjusted: bool) -> str:
    """Return the reservations that the options of a run add to its law: text that begins with "; but", or "".

    weights_end: the lowest noise level with weights. last: the last positive level. unadjusted: True where
    correctors move without an accept step.
    """
    text = ""
    if weights_end > last:
        text += (
            f"; but weights stop at sigma = {weights_end:g}: below it the particles move without weights, so the "
            "target, rewards and walls have no effect on the weights there"
        )
    if resampling == SELECT:
        text += f"; but {ONE_PARTICLE}: only averages over populations by Z keep that law"
    if unadjusted:
        text += "; but unadjusted correctors are off by their step size"
    return text
