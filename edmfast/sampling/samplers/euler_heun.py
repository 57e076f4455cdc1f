"""Single-step solvers of the probability-flow ODE, dx/dsigma = (x - D(x; sigma)) / sigma.

Both solvers take Karras et al.'s churn: before a step with sigma in [s_tmin, s_tmax] the noise is raised to
sigma_hat = (1 + gamma) sigma by adding fresh noise of variance s_noise² (sigma_hat² - sigma²), with
gamma = min(s_churn / T, sqrt(2) - 1). Source: Karras et al. 2022, arXiv 2206.00364, algorithms 1 and 2; the names
and the callback are k-diffusion's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast.models.protocols import Denoiser
from edmfast.sampling.callbacks import Callback
from edmfast.sampling.engine.run import run
from edmfast.sampling.noise import NoiseSampler
from edmfast.sampling.solvers.churn import Churn
from edmfast.sampling.solvers.euler import Euler
from edmfast.sampling.solvers.heun import Heun
from edmfast.sampling.steps import as_churn


@without_gradients
def sample_euler(
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
    """Sample with Euler's method, of first order, in T model calls for sigmas [T + 1].

    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 2 without its second-order correction.

    Args:
        model: the denoiser, called as model(x, sigma [B], **extra_args) -> x_0. A result of another floating
            dtype than x is converted to that of x.
        x: the noisy states [B, *shape], at the noise level sigmas[0].
        sigmas: the noise levels [T + 1] in units of x, strictly decreasing, of which the last may be 0; or
            strictly increasing from a positive level, which carries samples back to their noise (inversion). The
            last positive level of three or more may be there twice.
        extra_args: keyword conditions for the model, such as {"class_label": labels}.
        callback: called once per step with a dictionary of x, i, sigma, sigma_hat and denoised. It may change x
            in place, which moves the point from which the step starts; a change of denoised has no effect.
        disable: True shows no progress, None shows a bar on a terminal or in a notebook only, and False also
            writes lines where there is no terminal.
        s_churn: the strength of the churn, 0 for none: gamma = min(s_churn / T, sqrt(2) - 1).
        s_tmin: the least noise level at which there is churn, in units of x.
        s_tmax: the largest noise level at which there is churn, in units of x.
        s_noise: a factor on the fresh noise.
        noise_sampler: a function (sigma, sigma_next) -> standard normals like x, called at churned steps only;
            by default noise that depends on torch's seed and the sample's index alone, see `noise_sampler`.
        seed: the seed of that noise, an integer or one for each sample [B]; by default a draw of torch's
            generator.
        compile: run all steps as one compiled graph, without a callback; see `compiled`.

    Returns:
        The states [B, *shape] at the noise level sigmas[-1], without gradients.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor, or the model returns no tensor.
        ValueError: x or sigmas of another shape, NaN or infinity in them, levels out of order, a negative churn
            setting, or a model that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    solver = Euler(Churn(*as_churn("s", s_churn, s_tmin, s_tmax, s_noise)))
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
def sample_heun(
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
    """Sample with Heun's method, of second order, in two model calls per step, or one where the step ends at 0.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithms 1 and 2.

    Args:
        model: the denoiser, called as model(x, sigma [B], **extra_args) -> x_0. A result of another floating
            dtype than x is converted to that of x.
        x: the noisy states [B, *shape], at the noise level sigmas[0].
        sigmas: the noise levels [T + 1] in units of x, strictly decreasing, of which the last may be 0; or
            strictly increasing from a positive level, which carries samples back to their noise (inversion).
        extra_args: keyword conditions for the model, such as {"class_label": labels}.
        callback: called once per step with a dictionary of x, i, sigma, sigma_hat and denoised. It may change x
            in place, which moves the point from which the step starts; a change of denoised has no effect.
        disable: True shows no progress, None shows a bar on a terminal or in a notebook only, and False also
            writes lines where there is no terminal.
        s_churn: the strength of the churn, 0 for none: gamma = min(s_churn / T, sqrt(2) - 1).
        s_tmin: the least noise level at which there is churn, in units of x.
        s_tmax: the largest noise level at which there is churn, in units of x.
        s_noise: a factor on the fresh noise.
        noise_sampler: a function (sigma, sigma_next) -> standard normals like x, called at churned steps only;
            by default noise that depends on torch's seed and the sample's index alone, see `noise_sampler`.
        seed: the seed of that noise, an integer or one for each sample [B]; by default a draw of torch's
            generator.
        compile: run all steps as one compiled graph, without a callback; see `compiled`.

    Returns:
        The states [B, *shape] at the noise level sigmas[-1], without gradients.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor, or the model returns no tensor.
        ValueError: x or sigmas of another shape, NaN or infinity in them, levels out of order, a negative churn
            setting, or a model that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    solver = Heun(Churn(*as_churn("s", s_churn, s_tmin, s_tmax, s_noise)))
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
