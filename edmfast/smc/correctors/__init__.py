"""Correctors: Markov chain Monte Carlo at one noise level, on [P, N] chains at once, for any target."""

from edmfast.smc.correctors.correct import as_correctors, check_correctors, correct, start_log_steps
from edmfast.smc.correctors.kinds import HMC, MALA, ULA, Corrector, Underdamped

__all__ = [
    "HMC",
    "MALA",
    "ULA",
    "Corrector",
    "Underdamped",
    "as_correctors",
    "check_correctors",
    "correct",
    "start_log_steps",
]
