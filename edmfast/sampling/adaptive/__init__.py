"""DPM-Solver with fixed and with adaptive steps, and its parts under k-diffusion's names."""

from edmfast.sampling.adaptive.controller import PIDStepSizeController
from edmfast.sampling.adaptive.dpm_adaptive import sample_dpm_adaptive, sample_dpm_fast
from edmfast.sampling.adaptive.dpm_solver import DPMSolver

__all__ = ["DPMSolver", "PIDStepSizeController", "sample_dpm_adaptive", "sample_dpm_fast"]
