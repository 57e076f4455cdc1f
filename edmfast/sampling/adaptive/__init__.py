"""DPM-Solver with fixed and with adaptive steps, and its parts under k-diffusion's names."""

from edmfast.sampling.adaptive.controller import PIDStepSizeController
from edmfast.sampling.adaptive.dpm_solver import DPMSolver
from edmfast.sampling.adaptive.sample import sample_dpm_adaptive, sample_dpm_fast

__all__ = ["DPMSolver", "PIDStepSizeController", "sample_dpm_adaptive", "sample_dpm_fast"]
