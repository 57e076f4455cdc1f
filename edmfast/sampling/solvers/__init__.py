"""Solvers for `edmfast.sampling.sample`: each describes its steps, and the engine runs them."""

from edmfast.sampling.solvers.churn import Churn
from edmfast.sampling.solvers.dpmpp_2m import DPMSolverPP2M
from edmfast.sampling.solvers.euler import AncestralEuler, Euler
from edmfast.sampling.solvers.heun import Heun

__all__ = ["AncestralEuler", "Churn", "DPMSolverPP2M", "Euler", "Heun"]
