"""k-diffusion's DPM-2, a midpoint rule in two model calls per step, and its ancestral form.

Sources: Lu et al. 2022, "DPM-Solver", arXiv 2206.00927; Karras et al. 2022, arXiv 2206.00364, algorithm 2. The
names, the arguments and the callback are k-diffusion's; the formulas are in `edmfast.sampling.solvers.dpm_2`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.numbers import as_float
from edmfast.models.protocols import Denoiser
from edmfast.sampling.callbacks import Callback
from edmfast.sampling.engine.run import run
from edmfast.sampling.noise import NoiseSampler
from edmfast.sampling.solvers.churn import Churn
from edmfast.sampling.solvers.dpm_2 import DPM2, AncestralDPM2
from edmfast.sampling.steps import as_churn


@without_gradients
def sample_dpm_2(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    *,
    noise_sampler: NoiseSampler | None = None,
    seed: int | Sequence[int] | Tensor | None = None,
    compile: bool = False,
) -> Tensor:
    """Sample with DPM-2, of second order, in two model calls per step, or one where the step ends at 0.

    Sources: Lu et al. 2022, arXiv 2206.00927; Karras et al. 2022, arXiv 2206.00364, algorithm 2 (churn).

    Args:
        model, x, sigmas, extra_args, callback, disable, noise_sampler, seed, compile: as for `sample_euler`.
        s_churn, s_tmin, s_tmax, s_noise: the churn, as for `sample_euler`.

    Returns:
        The states [B, *shape] at the noise level sigmas[-1], without gradients.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor, the model returns no tensor, or a number is none.
        ValueError: x or sigmas of another shape, NaN or infinity in them, levels out of order, a negative churn
            setting, or a model that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    solver = DPM2(Churn(*as_churn("s", s_churn, s_tmin, s_tmax, s_noise)))
    return run(
        solver,
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        noise_sampler=noise_sampler,
        seed=seed,
        compile=compile,
    )


@without_gradients
def sample_dpm_2_ancestral(
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
    """Sample ancestrally with steps of DPM-2, in two model calls per step, or one where the step ends at 0.

    Sources: Lu et al. 2022, arXiv 2206.00927; Song et al. 2021, arXiv 2010.02502 (eta).

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
        AncestralDPM2(eta, s_noise),
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
