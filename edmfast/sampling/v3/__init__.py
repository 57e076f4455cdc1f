"""DPM-Solver-v3, whose parametrisation of the ODE is fitted to a model.

With lambda = -ln sigma the probability-flow ODE is dx/dlambda = -sigma eps(x). The solver writes sigma eps = l x +
f with a factor l(lambda) for every element of a state, and expects df/dlambda = s f + b. So

    f(lambda) = exp(S) (g + B),   S = integral of s,   B = integral of b exp(-S),

in which only g is left to be approximated: a Taylor polynomial in lambda through past evaluations. With L the
integral of l, all from the start of a step,

    x' = exp(-L') [x - integral of exp(L + S) (g + B) d lambda].

(l, s, b) = (1, 0, 0) is the prediction of D and (0, -1, 0) that of epsilon. Source: Zheng et al. 2023,
"DPM-Solver-v3", arXiv 2310.13268.
"""

from edmfast.sampling.v3.fitting import fit_dpm_solver_v3
from edmfast.sampling.v3.sampler import sample_dpm_solver_v3
from edmfast.sampling.v3.statistics import DPMSolverV3Statistics

__all__ = ["DPMSolverV3Statistics", "fit_dpm_solver_v3", "sample_dpm_solver_v3"]
