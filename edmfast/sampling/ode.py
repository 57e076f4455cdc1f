"""Single-step solvers of the probability-flow ODE, dx/dsigma = (x - D(x; sigma)) / sigma.

Both take Karras et al.'s churn: before a step with sigma in [s_tmin, s_tmax] the noise is raised to
sigma_hat = (1 + gamma) sigma by adding fresh noise of variance s_noise^2 (sigma_hat^2 - sigma^2),
gamma = min(s_churn / T, sqrt(2) - 1). Source: Karras et al. 2022, arXiv 2206.00364, algorithms 1
and 2; names and callback as in k-diffusion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.progress import count_steps
from edmfast.sampling.common import (
    Callback,
    Model,
    as_churn,
    bind,
    check_start,
    checked_end,
    churn_factors,
    own_start,
    report,
    to_d,
    towards,
)
from edmfast.sampling.noise import NoiseSampler, or_default


@without_gradients
def sample_euler(
    model: Model,
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
    """Euler's method, first order, T model calls for sigmas [T + 1].

    Args:
        model: denoiser, called as model(x, sigma [B], **extra_args) -> x_0.
        x: [B, *shape], the noisy state at sigmas[0].
        sigmas: [T + 1], strictly decreasing, the last may be 0; or strictly increasing from a
            positive level, which carries a sample back to its noise (inversion).
        callback: called once per step with a dict of x, i, sigma, sigma_hat, denoised; in-place
            changes act as in k-diffusion, see `edmfast.sampling.common`.
        disable: of the progress bar: None shows it on a terminal only, False also as lines of a log.
        s_churn, s_tmin, s_tmax, s_noise: the churn, none by default.
        noise_sampler: (sigma, sigma_next) -> normals like x, called at churned steps only.

    Raises:
        TypeError, ValueError: bad x or sigmas, negative churn, or a model of another shape.
    """
    levels = check_start(x, sigmas)
    x = own_start(x, callback)
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
            x = towards(denoised, x, levels[i + 1] / sigma_hat)
            continue
        start, slope = x.clone(), to_d(x, sigma_hat, denoised)
        end = towards(denoised, x, levels[i + 1] / sigma_hat)
        report(callback, x, i, sigmas[i], sigmas[i] * (1 + gammas[i]), denoised)
        x = _from_changed(start, end, x, slope, levels[i + 1] - sigma_hat)
    return checked_end(x)


@without_gradients
def sample_heun(
    model: Model,
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
    """Heun's method, second order, two model calls per step (one where the step ends at 0).

    Arguments and errors as in `sample_euler`.
    """
    levels = check_start(x, sigmas)
    x = own_start(x, callback)
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
    """From sigma to sigma_next by the trapezoidal rule; `denoised` is D(x; sigma), known."""
    if sigma_next == 0:
        return denoised.clone()
    return _trapezoidal(denoise, x, to_d(x, sigma, denoised), sigma, sigma_next)


def _trapezoidal(
    denoise: Callable[[Tensor, float], Tensor],
    x: Tensor,
    slope: Tensor,
    sigma: float,
    sigma_next: float,
) -> Tensor:
    """Return the state at sigma_next; `slope` is dx/dsigma at the start of the step, changed in place."""
    end = (slope * (sigma_next - sigma)).add_(x)
    slope.add_(to_d(end, sigma_next, denoise(end, sigma_next)))
    return slope.mul_((sigma_next - sigma) / 2).add_(x)


def _from_changed(start: Tensor, end: Tensor, x: Tensor, slope: Tensor, step: float) -> Tensor:
    """Return x + step * slope where a callback changed x, else `end`, the usual step from `start`.

    The two are the same number but round differently, and a callback that only looks must not change
    any bit. Versions of a tensor would not show what was changed through NumPy or in inference mode.
    """
    return torch.where(x == start, end, slope.mul_(step).add_(x))
