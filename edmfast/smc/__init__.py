"""Sequential Monte Carlo on energies: exact weights, many populations, resumable."""

from edmfast.smc.calibrate import calibrate
from edmfast.smc.calibration import Calibration
from edmfast.smc.estimates import Estimate
from edmfast.smc.make_law import MixedModelsWarning
from edmfast.smc.particles import DegenerateWeightsWarning, Particles
from edmfast.smc.proposals import (
    Ancestral,
    CurvatureMatched,
    Euler,
    FeynmanKac,
    NoiseMatched,
    Proposal,
    SuperDiff,
)
from edmfast.smc.sampler import sample

__all__ = [
    "Ancestral",
    "Calibration",
    "CurvatureMatched",
    "DegenerateWeightsWarning",
    "Estimate",
    "Euler",
    "FeynmanKac",
    "MixedModelsWarning",
    "NoiseMatched",
    "Particles",
    "Proposal",
    "SuperDiff",
    "calibrate",
    "sample",
]
