"""The samplers, schedules and noise of `edmfast.sampling` under the names of k-diffusion's `sampling`."""

from collections.abc import Sequence

from torch import Tensor

from edmfast._internal.numbers import as_float, as_int
from edmfast.k_diffusion.utils import append_zero
from edmfast.sampling import (
    BatchedBrownianTree,
    BrownianTreeNoiseSampler,
    DPMSolver,
    PIDStepSizeController,
    default_noise_sampler,
    get_ancestral_step,
    get_sigmas_exponential,
    get_sigmas_karras,
    get_sigmas_polyexponential,
    get_sigmas_vp,
    log_likelihood,
    sample_dpm_2,
    sample_dpm_2_ancestral,
    sample_dpm_adaptive,
    sample_dpm_fast,
    sample_dpmpp_2m,
    sample_dpmpp_2m_sde,
    sample_dpmpp_2s_ancestral,
    sample_dpmpp_3m_sde,
    sample_dpmpp_sde,
    sample_euler,
    sample_euler_ancestral,
    sample_heun,
    sample_lms,
    to_d,
)
from edmfast.sampling.solvers.linear_multistep import integrals

__all__ = [
    "BatchedBrownianTree",
    "BrownianTreeNoiseSampler",
    "DPMSolver",
    "PIDStepSizeController",
    "append_zero",
    "default_noise_sampler",
    "get_ancestral_step",
    "get_sigmas_exponential",
    "get_sigmas_karras",
    "get_sigmas_polyexponential",
    "get_sigmas_vp",
    "linear_multistep_coeff",
    "log_likelihood",
    "sample_dpm_2",
    "sample_dpm_2_ancestral",
    "sample_dpm_adaptive",
    "sample_dpm_fast",
    "sample_dpmpp_2m",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_3m_sde",
    "sample_dpmpp_sde",
    "sample_euler",
    "sample_euler_ancestral",
    "sample_heun",
    "sample_lms",
    "to_d",
]


def linear_multistep_coeff(order: int, t: Tensor | Sequence[float], i: int, j: int) -> float:
    """Return the weight of the slope at t[i - j] in a linear multistep move from t[i] to t[i + 1].

    It is the integral of the Lagrange polynomial of that level among the last `order` levels t[i], t[i - 1], ....
    k-diffusion integrates by quadrature to about 1e-4 of the value, and this is exact.
    Source: Adams and Bashforth 1883.

    Args:
        order: the number of slopes of the move.
        t: the noise levels, [T + 1].
        i: the number of the step, from order - 1 to T - 1.
        j: the number of steps back from i, from 0 to order - 1.

    Raises:
        ValueError: an order that is too high for step i, or i or j out of range.
    """
    order, last = as_int("order", order, least=1), len(t) - 2
    i = as_int("i", i, least=0, most=last)
    j = as_int("j", j, least=0, most=order - 1)
    if order - 1 > i:
        raise ValueError(f"order must be at most {i + 1} at step {i}, got {order}")
    levels = [as_float(f"t[{k}]", t[k]) for k in range(i + 1 - order, i + 2)]
    return integrals(levels[-2::-1], levels[-2], levels[-1])[j]
