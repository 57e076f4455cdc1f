"""Stochastic single-step solver: Euler with ancestral noise.

A step from sigma to sigma_next is a deterministic move to sigma_down < sigma_next and fresh noise
sigma_up, sigma_down^2 + sigma_up^2 = sigma_next^2 (`get_ancestral_step`). Sources: Ho et al. 2020,
arXiv 2006.11239 (ancestral sampling), Song et al. 2021, arXiv 2010.02502 (eta); name and callback
as in k-diffusion.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.numbers import as_float
from edmfast._internal.progress import count_steps
from edmfast.sampling.common import (
    Callback,
    Model,
    bind,
    check_start,
    checked_end,
    get_ancestral_step,
    own_start,
    report,
    towards,
)
from edmfast.sampling.noise import NoiseSampler, or_default


@without_gradients
def sample_euler_ancestral(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Ancestral sampling with Euler steps, one model call per step.

    Args:
        model: denoiser, called as model(x, sigma [B], **extra_args) -> x_0.
        x: [B, *shape], the noisy state at sigmas[0].
        sigmas: [T + 1], strictly decreasing, the last may be 0; with eta = 0, which is plain Euler,
            also strictly increasing from a positive level.
        callback: called once per step with a dict of x, i, sigma, sigma_hat, denoised; in-place
            changes act as in k-diffusion, see `edmfast.sampling.common`.
        disable: of the progress bar: None shows it on a terminal only, False also as lines of a log.
        eta: 1 is ancestral sampling, 0 the ODE.
        s_noise: factor of the noise.
        noise_sampler: (sigma, sigma_next) -> normals like x, called where noise is added.

    Raises:
        TypeError, ValueError: bad x or sigmas, negative eta or s_noise, a model of another shape.
    """
    eta = as_float("eta", eta, least=0, finite=False)
    s_noise = as_float("s_noise", s_noise, least=0)
    levels = check_start(x, sigmas, rising=eta == 0)
    x = own_start(x, callback)
    noise = or_default(noise_sampler, x, needed=eta > 0)
    denoise = bind(model, extra_args)
    for i in count_steps(len(levels) - 1, disable):
        denoised = denoise(x, levels[i])
        report(callback, x, i, sigmas[i], sigmas[i], denoised)
        sigma_down, sigma_up = get_ancestral_step(levels[i], levels[i + 1], eta)
        x = towards(denoised, x, sigma_down / levels[i])
        if sigma_up > 0:
            x = x.add_(noise(sigmas[i], sigmas[i + 1]) * (s_noise * sigma_up))
    return checked_end(x)
