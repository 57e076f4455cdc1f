"""Multistep solver: DPM-Solver++(2M), which reuses the last denoised state.

In lambda = -ln sigma, with h = lambda_next - lambda and r = h_previous / h,
    x' = (sigma_next / sigma) x - (exp(-h) - 1) D',   D' = D + (D - D_previous) / (2 r);
exp(-h) = sigma_next / sigma, so a step moves x towards the extrapolated D'. Source: Lu et al. 2022,
"DPM-Solver++", arXiv 2211.01095, algorithm 2; name and callback as in k-diffusion.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from edmfast._internal.derivatives import without_gradients
from edmfast._internal.progress import count_steps
from edmfast.sampling.common import (
    Callback,
    Model,
    bind,
    check_start,
    checked_end,
    own_start,
    report,
    towards,
)


@without_gradients
def sample_dpmpp_2m(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """DPM-Solver++(2M), second order, one model call per step; first order at the two ends.

    Args:
        model: denoiser, called as model(x, sigma [B], **extra_args) -> x_0.
        x: [B, *shape], the noisy state at sigmas[0].
        sigmas: [T + 1], strictly decreasing, the last may be 0; or strictly increasing from a
            positive level, which carries a sample back to its noise (inversion).
        callback: called once per step with a dict of x, i, sigma, sigma_hat, denoised; in-place
            changes act as in k-diffusion, see `edmfast.sampling.common`.
        disable: of the progress bar: None shows it on a terminal only, False also as lines of a log.

    Raises:
        TypeError, ValueError: bad x or sigmas, or a model that returns another shape.
    """
    levels = check_start(x, sigmas)
    x = own_start(x, callback)
    denoise = bind(model, extra_args)
    previous: Tensor | None = None
    for i in count_steps(len(levels) - 1, disable):
        sigma, sigma_next = levels[i], levels[i + 1]
        denoised = denoise(x, sigma)
        report(callback, x, i, sigmas[i], sigmas[i], denoised)
        target = denoised
        if previous is not None and sigma_next > 0:
            h, h_previous = math.log(sigma / sigma_next), math.log(levels[i - 1] / sigma)
            target = towards(denoised, previous, -h / (2 * h_previous))
        x = towards(target, x, sigma_next / sigma)
        previous = denoised
    return checked_end(x)
