"""Sequential Monte Carlo on energies: exact weights, many populations, resumable."""

from edmfast.smc.calibrate import calibrate
from edmfast.smc.calibrate_offsets import calibrate_offsets
from edmfast.smc.calibration import Calibration
from edmfast.smc.correctors import HMC, MALA, ULA, Corrector, Underdamped
from edmfast.smc.feynman_kac.choose import MixedModelsWarning
from edmfast.smc.mcmc import ChainResult, mcmc
from edmfast.smc.options import Checkpoint, Correction, Distribution, RunOptions
from edmfast.smc.particles.estimates import Estimate
from edmfast.smc.particles.evaluations import Evaluations
from edmfast.smc.particles.particles import Particles
from edmfast.smc.proposals import (
    Ancestral,
    Corrected,
    CurvatureMatched,
    Euler,
    NoiseMatched,
    Proposal,
    SuperDiff,
)
from edmfast.smc.sample import sample
from edmfast.smc.steer import Steered, steer
from edmfast.smc.verdict.verdict import Verdict
from edmfast.smc.verdict.warn import DegenerateWeightsWarning, DoubtfulWeightsWarning
from edmfast.targets.gauges import GaugeWarning

__all__ = [
    "HMC",
    "MALA",
    "ULA",
    "Ancestral",
    "Calibration",
    "ChainResult",
    "Checkpoint",
    "Corrected",
    "Correction",
    "Corrector",
    "CurvatureMatched",
    "DegenerateWeightsWarning",
    "Distribution",
    "DoubtfulWeightsWarning",
    "Estimate",
    "Euler",
    "Evaluations",
    "GaugeWarning",
    "MixedModelsWarning",
    "NoiseMatched",
    "Particles",
    "Proposal",
    "RunOptions",
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
