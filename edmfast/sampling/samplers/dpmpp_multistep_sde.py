"""The multistep stochastic samplers of DPM-Solver++, in one model call per step.

Source: Lu et al. 2022, "DPM-Solver++", arXiv 2211.01095. The names, the arguments and the callback are
k-diffusion's; the formulas are in `edmfast.sampling.solvers.dpmpp_multistep_sde`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.numbers import as_float
from edmfast.models.protocols import Denoiser
from edmfast.sampling.callbacks import Callback
from edmfast.sampling.engine.run import run
from edmfast.sampling.noise import NoiseSampler
from edmfast.sampling.solvers.dpmpp_multistep_sde import DPMSolverPP2MSDE, DPMSolverPP3MSDE
from edmfast.sampling.solvers.shared.fields import SolverType, check_solver_type


@without_gradients
def sample_dpmpp_2m_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: SolverType = "midpoint",
    *,
    seed: int | Sequence[int] | Tensor | None = None,
    compile: bool = False,
) -> Tensor:
    """Sample the SDE with DPM-Solver++(2M), in one model call per step.

    The first step, and a last step that ends at 0, are of first order.
    Source: Lu et al. 2022, arXiv 2211.01095, section 5 and algorithm 2.

    Args:
        model, x, extra_args, disable, seed, compile: as for `sample_euler`.
        sigmas: the noise levels [T + 1] in units of x, strictly decreasing, of which the last may be 0. With eta
            = 0 they may also increase strictly from a positive level.
        callback: called once per step with a dictionary of x, i, sigma, sigma_hat and denoised. It may change x
            and denoised in place, and both changes act on the step. A changed denoised also acts on the
            following steps.
        eta: 1 gives the SDE, and 0 gives the ODE without noise.
        s_noise: a factor on the fresh noise.
        noise_sampler: a function (sigma, sigma_next) -> standard normals like x, called where noise is added; by
            default the increments of a Brownian path, which is the same at every number of steps.
        solver_type: "midpoint" or "heun", the rule by which a step takes the change of the denoised states into
            account. Both agree to second order.

    Returns:
        The states [B, *shape] at the noise level sigmas[-1], without gradients.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor, the model returns no tensor, or a number is none.
        ValueError: x or sigmas of another shape, NaN or infinity in them, levels out of order, a number out of
            range, another solver_type, or a model that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    check_solver_type(solver_type)
    eta, s_noise = as_float("eta", eta, least=0), as_float("s_noise", s_noise, least=0)
    return run(
        DPMSolverPP2MSDE(eta, s_noise, solver_type),
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler=noise_sampler,
        seed=seed,
        compile=compile,
        rising=eta == 0,
    )


@without_gradients
def sample_dpmpp_3m_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    *,
    seed: int | Sequence[int] | Tensor | None = None,
    compile: bool = False,
) -> Tensor:
    """Sample the SDE with DPM-Solver++(3M) in its published form, in one model call per step.

    The first step, and a last step that ends at 0, are of first order, and the second step is of second order. The
    published form halves the second derivative, so that its order is 2 in the limit of many steps, but at 8 to 16
    steps its error is smaller than that of the exact form.
    Source: Lu et al. 2022, arXiv 2211.01095; k-diffusion's function of this name.

    Args:
        model, x, extra_args, disable, seed, compile: as for `sample_euler`.
        sigmas: the noise levels [T + 1] in units of x, strictly decreasing, of which the last may be 0. With eta
            = 0 they may also increase strictly from a positive level.
        callback: called once per step with a dictionary of x, i, sigma, sigma_hat and denoised. It may change x
            and denoised in place, and both changes act on the step. A changed denoised also acts on the
            following steps.
        eta: 1 gives the SDE, and 0 gives the ODE without noise.
        s_noise: a factor on the fresh noise.
        noise_sampler: a function (sigma, sigma_next) -> standard normals like x, called where noise is added; by
            default the increments of a Brownian path, which is the same at every number of steps.

    Returns:
        The states [B, *shape] at the noise level sigmas[-1], without gradients.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor, the model returns no tensor, or a number is none.
        ValueError: x or sigmas of another shape, NaN or infinity in them, levels out of order, a number out of
            range, or a model that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    eta, s_noise = as_float("eta", eta, least=0), as_float("s_noise", s_noise, least=0)
    return run(
        DPMSolverPP3MSDE(eta, s_noise),
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler=noise_sampler,
        seed=seed,
        compile=compile,
        rising=eta == 0,
    )
