"""Solvers for `edmfast.sampling.sample`: each describes its steps, and the engine runs them."""

from edmfast.sampling.solvers.churn import Churn
from edmfast.sampling.solvers.dpm_2 import DPM2, AncestralDPM2
from edmfast.sampling.solvers.dpm_fast import DPMSolverFast
from edmfast.sampling.solvers.dpmpp_2m import DPMSolverPP2M
from edmfast.sampling.solvers.dpmpp_multistep_sde import DPMSolverPP2MSDE, DPMSolverPP3MSDE
from edmfast.sampling.solvers.dpmpp_sde import AncestralDPMSolverPP2S, DPMSolverPPSDE
from edmfast.sampling.solvers.euler import AncestralEuler, Euler
from edmfast.sampling.solvers.heun import Heun
from edmfast.sampling.solvers.linear_multistep import LinearMultistep

__all__ = [
    "DPM2",
    "AncestralDPM2",
    "AncestralDPMSolverPP2S",
    "AncestralEuler",
    "Churn",
    "DPMSolverFast",
    "DPMSolverPP2M",
    "DPMSolverPP2MSDE",
    "DPMSolverPP3MSDE",
    "DPMSolverPPSDE",
    "Euler",
    "Heun",
    "LinearMultistep",
]
