"""Single-step solvers of the probability-flow ODE, dx/dsigma = (x - D(x; sigma)) / sigma.

Both solvers take Karras et al.'s churn: before a step with sigma in [s_tmin, s_tmax] the noise is raised to
sigma_hat = (1 + gamma) sigma by adding fresh noise of variance s_noise² (sigma_hat² - sigma²), with
gamma = min(s_churn / T, sqrt(2) - 1). Source: Karras et al. 2022, arXiv 2206.00364, algorithms 1 and 2; the names
and the callback are k-diffusion's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.progress import count_steps
from edmfast.models.protocols import Denoiser
from edmfast.sampling.callbacks import Callback, first_state, report
from edmfast.sampling.checks import bind, check_start, checked_end
from edmfast.sampling.noise import NoiseSampler, or_default
from edmfast.sampling.steps import as_churn, churn_factors, move_towards, to_d


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
) -> Tensor:
    """Sample with Euler's method, of first order, in T model calls for sigmas [T + 1].

    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 2 without its second-order correction.

    Args:
        model: the denoiser, called as model(x, sigma [B], **extra_args) -> x_0.
        x: the noisy states [B, *shape], at the noise level sigmas[0].
        sigmas: the noise levels [T + 1] in units of x, strictly decreasing, of which the last may be 0; or
            strictly increasing from a positive level, which carries samples back to their noise (inversion).
        extra_args: keyword conditions for the model, such as {"class_label": labels}.
        callback: called once per step with a dictionary of x, i, sigma, sigma_hat and denoised. It may change x in
            place, which moves the point from which the step starts; a change of denoised has no effect.
        disable: True shows no progress, None shows a bar on a terminal or in a notebook only, and False also
            writes lines where there is no terminal.
        s_churn: the strength of the churn, 0 for none: gamma = min(s_churn / T, sqrt(2) - 1).
        s_tmin: the least noise level at which there is churn, in units of x.
        s_tmax: the largest noise level at which there is churn, in units of x.
        s_noise: a factor on the fresh noise.
        noise_sampler: a function (sigma, sigma_next) -> standard normals like x, called at churned steps only; by
            default noise that depends on torch's seed and the sample's index alone, see `noise_sampler`.

    Returns:
        The states [B, *shape] at the noise level sigmas[-1], without gradients.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor, or the model returns no tensor.
        ValueError: x or sigmas of another shape, NaN or infinity in them, levels out of order, a negative churn
            setting, or a model that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    levels = check_start(x, sigmas)
    x = first_state(x, callback)
    s_churn, s_tmin, s_tmax, s_noise = as_churn("s", s_churn, s_tmin, s_tmax, s_noise)
    gammas = churn_factors(levels, s_churn, s_tmin, s_tmax)
    noise = or_default(noise_sampler, x, needed=any(gammas))
    denoise = bind(model, extra_args)
    for i in count_steps(len(gammas), disable):
        sigma_hat = levels[i] * (1 + gammas[i])
        if gammas[i]:
            fresh = s_noise * math.sqrt(sigma_hat**2 - levels[i] ** 2)
            x = x + noise(sigmas[i], sigmas[i + 1]) * fresh
        denoised = denoise(x, sigma_hat)
        if callback is None:
            x = move_towards(denoised, x, levels[i + 1] / sigma_hat)
            continue
        # The callback may change x, so the usual step is computed before it and compared afterwards.
        start, slope = x.clone(), to_d(x, sigma_hat, denoised)
        end = move_towards(denoised, x, levels[i + 1] / sigma_hat)
        report(callback, x, i, sigmas[i], sigmas[i] * (1 + gammas[i]), denoised)
        x = _from_changed(start, end, x, slope, levels[i + 1] - sigma_hat)
    return checked_end(x)


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
) -> Tensor:
    """Sample with Heun's method, of second order, in two model calls per step, or one where the step ends at 0.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithms 1 and 2.

    Args:
        model: the denoiser, called as model(x, sigma [B], **extra_args) -> x_0.
        x: the noisy states [B, *shape], at the noise level sigmas[0].
        sigmas: the noise levels [T + 1] in units of x, strictly decreasing, of which the last may be 0; or
            strictly increasing from a positive level, which carries samples back to their noise (inversion).
        extra_args: keyword conditions for the model, such as {"class_label": labels}.
        callback: called once per step with a dictionary of x, i, sigma, sigma_hat and denoised. It may change x in
            place, which moves the point from which the step starts; a change of denoised has no effect.
        disable: True shows no progress, None shows a bar on a terminal or in a notebook only, and False also
            writes lines where there is no terminal.
        s_churn: the strength of the churn, 0 for none: gamma = min(s_churn / T, sqrt(2) - 1).
        s_tmin: the least noise level at which there is churn, in units of x.
        s_tmax: the largest noise level at which there is churn, in units of x.
        s_noise: a factor on the fresh noise.
        noise_sampler: a function (sigma, sigma_next) -> standard normals like x, called at churned steps only; by
            default noise that depends on torch's seed and the sample's index alone, see `noise_sampler`.

    Returns:
        The states [B, *shape] at the noise level sigmas[-1], without gradients.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor, or the model returns no tensor.
        ValueError: x or sigmas of another shape, NaN or infinity in them, levels out of order, a negative churn
            setting, or a model that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    levels = check_start(x, sigmas)
    x = first_state(x, callback)
    s_churn, s_tmin, s_tmax, s_noise = as_churn("s", s_churn, s_tmin, s_tmax, s_noise)
    gammas = churn_factors(levels, s_churn, s_tmin, s_tmax)
    noise = or_default(noise_sampler, x, needed=any(gammas))
    denoise = bind(model, extra_args)
    for i in count_steps(len(gammas), disable):
        sigma_hat = levels[i] * (1 + gammas[i])
        if gammas[i]:
            fresh = s_noise * math.sqrt(sigma_hat**2 - levels[i] ** 2)
            x = x + noise(sigmas[i], sigmas[i + 1]) * fresh
        denoised = denoise(x, sigma_hat)
        if callback is None:
            x = heun_step(denoise, x, denoised, sigma_hat, levels[i + 1])
            continue
        slope, start, end = to_d(x, sigma_hat, denoised), x, denoised
        if levels[i + 1] == 0:
            # The step to 0 ends at denoised, which the callback may change without an effect.
            start, end = x.clone(), denoised.clone()
        report(callback, x, i, sigmas[i], sigmas[i] * (1 + gammas[i]), denoised)
        if levels[i + 1] == 0:
            x = _from_changed(start, end, x, slope, -sigma_hat)
        else:
            x = _trapezoidal(denoise, x, slope, sigma_hat, levels[i + 1])
    return checked_end(x)


def heun_step(
    denoise: Callable[[Tensor, float], Tensor],
    x: Tensor,
    denoised: Tensor,
    sigma: float,
    sigma_next: float,
) -> Tensor:
    """Return the state at sigma_next after a step by the trapezoidal rule, given denoised = D(x; sigma)."""
    if sigma_next == 0:
        # A model may return a tensor that it keeps, and the caller may change the result in place.
        return denoised.clone()
    return _trapezoidal(denoise, x, to_d(x, sigma, denoised), sigma, sigma_next)


def _trapezoidal(
    denoise: Callable[[Tensor, float], Tensor],
    x: Tensor,
    slope: Tensor,
    sigma: float,
    sigma_next: float,
) -> Tensor:
    """Return the state at sigma_next. The slope dx/dsigma at the start of the step is changed in place."""
    # The Euler step is a new tensor, because the slope is needed again below.
    end = (slope * (sigma_next - sigma)).add_(x)
    slope.add_(to_d(end, sigma_next, denoise(end, sigma_next)))
    return slope.mul_((sigma_next - sigma) / 2).add_(x)


def _from_changed(start: Tensor, end: Tensor, x: Tensor, slope: Tensor, step: float) -> Tensor:
    """Return x + step * slope where a callback changed x, and elsewhere `end`, the usual step from `start`.

    Both are the same number but round differently, and a callback that only reads must not change any bit. The
    version counter of a tensor would not show a change through NumPy or in inference mode.
    """
    return torch.where(x == start, end, slope.mul_(step).add_(x))
