"""Sequential Monte Carlo on energies: exact weights, many populations, resumable."""

from edmfast.models.gauges import GaugeWarning
from edmfast.smc.calibrate import calibrate
from edmfast.smc.calibration import Calibration
from edmfast.smc.correctors import HMC, MALA, ULA, Corrector, Underdamped
from edmfast.smc.cost import Evaluations
from edmfast.smc.estimates import Estimate
from edmfast.smc.make_law import MixedModelsWarning
from edmfast.smc.mcmc import ChainResult, mcmc
from edmfast.smc.offsets import calibrate_offsets
from edmfast.smc.particles import Particles
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
from edmfast.smc.steer import Steered, steer
from edmfast.smc.telling import DegenerateWeightsWarning, DoubtfulWeightsWarning
from edmfast.smc.verdict import Verdict

__all__ = [
    "HMC",
    "MALA",
    "ULA",
    "Ancestral",
    "Calibration",
    "ChainResult",
    "Corrector",
    "CurvatureMatched",
    "DegenerateWeightsWarning",
    "DoubtfulWeightsWarning",
    "Estimate",
    "Euler",
    "Evaluations",
    "FeynmanKac",
    "GaugeWarning",
    "MixedModelsWarning",
    "NoiseMatched",
    "Particles",
    "Proposal",
    "Steered",
    "SuperDiff",
    "Underdamped",
    "Verdict",
    "calibrate",
    "calibrate_offsets",
    "mcmc",
    "sample",
    "steer",
]
