"""The singlestep stochastic samplers of DPM-Solver++, in two model calls per step.

Source: Lu et al. 2022, "DPM-Solver++", arXiv 2211.01095. The names, the arguments and the callback are
k-diffusion's; the formulas are in `edmfast.sampling.solvers.dpmpp_sde`.
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
from edmfast.sampling.solvers.dpmpp_sde import AncestralDPMSolverPP2S, DPMSolverPPSDE


@without_gradients
def sample_dpmpp_2s_ancestral(
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
    """Sample ancestrally with DPM-Solver++(2S), in two model calls per step, or one where the step ends at 0.

    Sources: Lu et al. 2022, arXiv 2211.01095, algorithm 1; Song et al. 2021, arXiv 2010.02502 (eta).

    Args:
        model, x, extra_args, disable, seed, compile: as for `sample_euler`.
        sigmas: the noise levels [T + 1] in units of x, strictly decreasing, of which the last may be 0. With eta
            = 0 they may also increase strictly from a positive level.
        callback: called once per step with a dictionary of x, i, sigma, sigma_hat and denoised. It may change x
            and denoised in place, and both changes act on the step.
        eta: 1 gives ancestral sampling, and 0 gives the ODE without noise.
        s_noise: a factor on the fresh noise.
        noise_sampler: a function (sigma, sigma_next) -> standard normals like x, called where noise is added; by
            default independent noise that depends on the seed and the sample's index alone.

    Returns:
        The states [B, *shape] at the noise level sigmas[-1], without gradients.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor, the model returns no tensor, or a number is none.
        ValueError: x or sigmas of another shape, NaN or infinity in them, levels out of order, a negative eta or
            s_noise, or a model that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    eta = as_float("eta", eta, least=0, finite=False)
    s_noise = as_float("s_noise", s_noise, least=0)
    return run(
        AncestralDPMSolverPP2S(eta, s_noise),
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
def sample_dpmpp_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    r: float = 1 / 2,
    *,
    seed: int | Sequence[int] | Tensor | None = None,
    compile: bool = False,
) -> Tensor:
    """Sample the SDE with singlestep DPM-Solver++, in two model calls per step, or one where a step ends at 0.

    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 1, with ancestral noise.

    Args:
        model, x, extra_args, disable, seed, compile: as for `sample_euler`.
        sigmas: the noise levels [T + 1] in units of x, strictly decreasing, of which the last may be 0. With eta
            = 0 they may also increase strictly from a positive level.
        callback: called once per step with a dictionary of x, i, sigma, sigma_hat and denoised. It may change x
            and denoised in place, and both changes act on the step.
        eta: 1 gives the SDE, and 0 gives the ODE without noise.
        s_noise: a factor on the fresh noise.
        noise_sampler: a function (sigma, sigma_next) -> standard normals like x, called twice in a step, from
            sigma to the middle and from sigma to the end; by default the increments of a Brownian path, which is
            the same at every number of steps.
        r: the place of the second model call in the step of ln sigma, positive.

    Returns:
        The states [B, *shape] at the noise level sigmas[-1], without gradients.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor, the model returns no tensor, or a number is none.
        ValueError: x or sigmas of another shape, NaN or infinity in them, levels out of order, a number out of
            range, or a model that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    eta = as_float("eta", eta, least=0, finite=False)
    s_noise = as_float("s_noise", s_noise, least=0)
    r = as_float("r", r, positive=True)
    return run(
        DPMSolverPPSDE(eta, s_noise, r),
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
