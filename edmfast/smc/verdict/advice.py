"""Advice to users whose run has bad weights. Each text completes the sentence "you can …"."""

from __future__ import annotations

from edmfast.smc.particles.data import ParticleData
from edmfast.smc.particles.law_notes import EXACT, MATCHED, OF_REWARDS

LARGER_START = "start from a larger sigma_max, so that N(0, sigma_max²/A) covers the target"
MORE_LEVELS = (
    "use more noise levels where the effective sample size falls, or those that smc.calibrate proposes (with "
    "a learned energy, also stop weighting where calibrate says: sigma_range=(calibration.sigma_lo, inf))"
)
MORE_PARTICLES = "use more particles"
WEAKER_TARGET = "choose a weaker target (a smaller exponent, guidance weight or strength)"
CORRECTORS = "add correctors, such as smc.MALA(), so that copies of one ancestor move apart"
FAULTY_TARGET = "check the target for energies that are NaN or infinite, and for walls that no particle can pass"

_MORE_LEVELS_UNCALIBRATED = "use more noise levels where the effective sample size falls"
_MORE_LEVELS_MATCHED = (
    "use more noise levels where the effective sample size falls, or the levels and probes that smc.calibrate "
    "proposes"
)
_WEAKER_REWARD = "use a smaller strength of the reward"


def applicable_advice(particles: ParticleData, steps: list[str]) -> list[str]:
    """Return the advice that this kind of run can follow, each text once, in the order given.

    Runs by scores have neither correctors nor a calibration. Where rewards alone weigh the particles, the
    start is that of the sampler and cannot be the fault: the rewards are too strong for the number of particles.
    """
    if not particles.law.startswith(EXACT):
        matched = particles.law.startswith(MATCHED)
        more_levels = _MORE_LEVELS_MATCHED if matched else _MORE_LEVELS_UNCALIBRATED
        replaced = {MORE_LEVELS: more_levels}
        if particles.log_z_note == OF_REWARDS:
            replaced[LARGER_START] = _WEAKER_REWARD
            steps = [_WEAKER_REWARD, *steps] if steps else steps
        steps = [replaced.get(step, step) for step in steps if step != CORRECTORS]
    # several findings may give the same advice
    return [*dict.fromkeys(steps)]
