"""Sequential Monte Carlo on energies: exact weights, many populations, resumable."""

from edmfast.smc.calibrate import calibrate
from edmfast.smc.calibration import Calibration
from edmfast.smc.offsets import calibrate_offsets
from edmfast.smc.particles import DegenerateWeightsWarning, Particles
from edmfast.smc.proposals import Ancestral, CurvatureMatched, Euler, NoiseMatched, Proposal
from edmfast.smc.sampler import sample

__all__ = [
    "Ancestral",
    "Calibration",
    "CurvatureMatched",
    "DegenerateWeightsWarning",
    "Euler",
    "NoiseMatched",
    "Particles",
    "Proposal",
    "calibrate",
    "calibrate_offsets",
    "sample",
]
