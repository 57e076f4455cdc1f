"""Solvers for `edmfast.sampling.sample`: each describes its steps, and the engine runs them."""

from edmfast.sampling.solvers.churn import Churn
from edmfast.sampling.solvers.deis import DEIS
from edmfast.sampling.solvers.dpm_2 import DPM2, AncestralDPM2
from edmfast.sampling.solvers.dpm_fast import DPMSolverFast
from edmfast.sampling.solvers.dpm_multistep import DPMSolverMultistep
from edmfast.sampling.solvers.dpm_singlestep import DPMSolverSinglestep
from edmfast.sampling.solvers.dpmpp_2m import DPMSolverPP2M
from edmfast.sampling.solvers.dpmpp_multistep_sde import DPMSolverPP2MSDE, DPMSolverPP3MSDE
from edmfast.sampling.solvers.dpmpp_sde import AncestralDPMSolverPP2S, DPMSolverPPSDE
from edmfast.sampling.solvers.euler import AncestralEuler, Euler
from edmfast.sampling.solvers.heun import Heun
from edmfast.sampling.solvers.linear_multistep import LinearMultistep
from edmfast.sampling.solvers.momentum import GHVB, IPNDM, HeavyBall, Nesterov
from edmfast.sampling.solvers.momentum_2m import DPMSolverPP2MHeavyBall
from edmfast.sampling.solvers.momentum_unipc import UniPCHeavyBall
from edmfast.sampling.solvers.reverse_sde import ReverseSDE
from edmfast.sampling.solvers.rho_runge_kutta import RhoRungeKutta
from edmfast.sampling.solvers.seeds import SEEDS
from edmfast.sampling.solvers.shared.orders import singlestep_orders
from edmfast.sampling.solvers.shared.taylor import Derivative
from edmfast.sampling.solvers.stability import stability_end
from edmfast.sampling.solvers.taylor_schedule import TaylorSchedule, TaylorStep
from edmfast.sampling.solvers.thresholding import DynamicThreshold
from edmfast.sampling.solvers.unipc import UniPC

__all__ = [
    "DEIS",
    "DPM2",
    "GHVB",
    "IPNDM",
    "SEEDS",
    "AncestralDPM2",
    "AncestralDPMSolverPP2S",
    "AncestralEuler",
    "Churn",
    "DPMSolverFast",
    "DPMSolverMultistep",
    "DPMSolverPP2M",
    "DPMSolverPP2MHeavyBall",
    "DPMSolverPP2MSDE",
    "DPMSolverPP3MSDE",
    "DPMSolverPPSDE",
    "DPMSolverSinglestep",
    "Derivative",
    "DynamicThreshold",
    "Euler",
    "HeavyBall",
    "Heun",
    "LinearMultistep",
    "Nesterov",
    "ReverseSDE",
    "RhoRungeKutta",
    "TaylorSchedule",
    "TaylorStep",
    "UniPC",
    "UniPCHeavyBall",
    "singlestep_orders",
    "stability_end",
]
