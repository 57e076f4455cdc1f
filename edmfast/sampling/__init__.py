"""Drop-in samplers for a denoiser, under the names of k-diffusion and of the EDM projects."""

from edmfast.sampling import guidance, solvers
from edmfast.sampling.adaptive import DPMSolver, PIDStepSizeController, sample_dpm_adaptive
from edmfast.sampling.adaptive.per_sample import sample_dpm_solver_adaptive
from edmfast.sampling.checks import NonFiniteWarning
from edmfast.sampling.likelihood import log_likelihood
from edmfast.sampling.noise import (
    BatchedBrownianTree,
    BrownianTreeNoiseSampler,
    default_noise_sampler,
    noise_sampler,
)
from edmfast.sampling.pfgm import student_t_prior
from edmfast.sampling.samplers.any_solver import sample
from edmfast.sampling.samplers.compiled import compiled
from edmfast.sampling.samplers.dpm_2 import sample_dpm_2, sample_dpm_2_ancestral
from edmfast.sampling.samplers.dpm_fast import sample_dpm_fast
from edmfast.sampling.samplers.dpmpp_2m import sample_dpmpp_2m
from edmfast.sampling.samplers.dpmpp_multistep_sde import sample_dpmpp_2m_sde, sample_dpmpp_3m_sde
from edmfast.sampling.samplers.dpmpp_sde import sample_dpmpp_2s_ancestral, sample_dpmpp_sde
from edmfast.sampling.samplers.edm import edm2_sampler, edm_sampler
from edmfast.sampling.samplers.euler_ancestral import sample_euler_ancestral
from edmfast.sampling.samplers.euler_heun import sample_euler, sample_heun
from edmfast.sampling.samplers.lms import sample_lms
from edmfast.sampling.schedules.sigmas import (
    get_sigmas_exponential,
    get_sigmas_karras,
    get_sigmas_polyexponential,
    get_sigmas_vp,
)
from edmfast.sampling.schedules.vp_grids import discrete_time_labels, get_sigmas_vp_grid
from edmfast.sampling.schedules.vp_schedules import CosineVP, DiscreteVP, LinearVP, VPSchedule
from edmfast.sampling.steps import get_ancestral_step, to_d
from edmfast.sampling.v3 import (
    DPMSolverV3Statistics,
    fit_dpm_solver_v3,
    sample_dpm_solver_v3,
)

__all__ = [
    "BatchedBrownianTree",
    "BrownianTreeNoiseSampler",
    "CosineVP",
    "DPMSolver",
    "DPMSolverV3Statistics",
    "DiscreteVP",
    "LinearVP",
    "NonFiniteWarning",
    "PIDStepSizeController",
    "VPSchedule",
    "compiled",
    "default_noise_sampler",
    "discrete_time_labels",
    "edm2_sampler",
    "edm_sampler",
    "fit_dpm_solver_v3",
    "get_ancestral_step",
    "get_sigmas_exponential",
    "get_sigmas_karras",
    "get_sigmas_polyexponential",
    "get_sigmas_vp",
    "get_sigmas_vp_grid",
    "guidance",
    "log_likelihood",
    "noise_sampler",
    "sample",
    "sample_dpm_2",
    "sample_dpm_2_ancestral",
    "sample_dpm_adaptive",
    "sample_dpm_fast",
    "sample_dpm_solver_adaptive",
    "sample_dpm_solver_v3",
    "sample_dpmpp_2m",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_3m_sde",
    "sample_dpmpp_sde",
    "sample_euler",
    "sample_euler_ancestral",
    "sample_heun",
    "sample_lms",
    "solvers",
    "student_t_prior",
    "to_d",
]
