"""The stochastic single-step solver: Euler's method with ancestral noise.

A step from sigma to sigma_next is a deterministic move to sigma_down < sigma_next followed by fresh noise of
standard deviation sigma_up, with sigma_down² + sigma_up² = sigma_next² (see `get_ancestral_step`). Sources: Ho et
al. 2020, arXiv 2006.11239 (ancestral sampling); Song et al. 2021, arXiv 2010.02502 (eta). The name and the
callback are k-diffusion's.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.numbers import as_float
from edmfast._internal.progress import count_steps
from edmfast.models.protocols import Denoiser
from edmfast.sampling.callbacks import Callback, first_state, report
from edmfast.sampling.checks import bind, check_start, checked_end
from edmfast.sampling.noise import NoiseSampler, or_default
from edmfast.sampling.steps import get_ancestral_step, move_towards


@without_gradients
def sample_euler_ancestral(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Sample ancestrally with Euler steps, in one model call per step.

    Sources: Ho et al. 2020, arXiv 2006.11239; Song et al. 2021, arXiv 2010.02502 (eta).

    Args:
        model: the denoiser, called as model(x, sigma [B], **extra_args) -> x_0.
        x: the noisy states [B, *shape], at the noise level sigmas[0].
        sigmas: the noise levels [T + 1] in units of x, strictly decreasing, of which the last may be 0. With
            eta = 0, which is Euler's method, they may also increase strictly from a positive level.
        extra_args: keyword conditions for the model, such as {"class_label": labels}.
        callback: called once per step with a dictionary of x, i, sigma, sigma_hat and denoised. It may change x
            and denoised in place, and both changes act on the step.
        disable: True shows no progress, None shows a bar on a terminal or in a notebook only, and False also
            writes lines where there is no terminal.
        eta: 1 gives ancestral sampling, and 0 gives the ODE without noise.
        s_noise: a factor on the fresh noise.
        noise_sampler: a function (sigma, sigma_next) -> standard normals like x, called where noise is added; by
            default noise that depends on torch's seed and the sample's index alone, see `noise_sampler`.

    Returns:
        The states [B, *shape] at the noise level sigmas[-1], without gradients.

    Raises:
        TypeError: x or sigmas is not a floating-point tensor, or the model returns no tensor.
        ValueError: x or sigmas of another shape, NaN or infinity in them, levels out of order, a negative eta or
            s_noise, or a model that returns another shape.

    Warns:
        NonFiniteWarning: some samples are NaN or infinite at the end.
    """
    eta = as_float("eta", eta, least=0, finite=False)
    s_noise = as_float("s_noise", s_noise, least=0)
    # Only the ODE can run upwards: the ancestral split has no real value for a level that rises.
    levels = check_start(x, sigmas, rising=eta == 0)
    x = first_state(x, callback)
    noise = or_default(noise_sampler, x, needed=eta > 0)
    denoise = bind(model, extra_args)
    for i in count_steps(len(levels) - 1, disable):
        denoised = denoise(x, levels[i])
        report(callback, x, i, sigmas[i], sigmas[i], denoised)
        sigma_down, sigma_up = get_ancestral_step(levels[i], levels[i + 1], eta)
        x = move_towards(denoised, x, sigma_down / levels[i])
        # A step without noise must not advance the noise source.
        if sigma_up > 0:
            # move_towards has just made x, so no caller or callback holds it.
            x = x.add_(noise(sigmas[i], sigmas[i + 1]) * (s_noise * sigma_up))
    return checked_end(x)
