"""DPM-Solver with adaptive steps, and its parts under k-diffusion's names."""

from edmfast.sampling.adaptive.controller import PIDStepSizeController
from edmfast.sampling.adaptive.dpm_adaptive import sample_dpm_adaptive
from edmfast.sampling.adaptive.dpm_solver import DPMSolver

__all__ = ["DPMSolver", "PIDStepSizeController", "sample_dpm_adaptive"]
