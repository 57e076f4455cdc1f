"""The plain samplers as their papers write them, in torch: a baseline, and in float64 the truth.

Each is loop(model, x [B, *shape], sigmas [T + 1] with a last 0), where model(x, sigma [B]) returns the denoised
state. The loop keeps the dtype of x. It reads the levels once, so that no step waits for the host.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

Model = Callable[[Tensor, Tensor], Tensor]
Loop = Callable[[Model, Tensor, Tensor], Tensor]


def _at(x: Tensor, sigma: float) -> Tensor:
    return torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)


def euler(model: Model, x: Tensor, sigmas: Tensor) -> Tensor:
    """Karras et al. 2022, arXiv 2206.00364: dx/dsigma = (x - D) / sigma, one call per step."""
    levels = sigmas.tolist()
    for sigma, following in itertools.pairwise(levels):
        slope = (x - model(x, _at(x, sigma))) / sigma
        x = x + slope * (following - sigma)
    return x


def heun(model: Model, x: Tensor, sigmas: Tensor) -> Tensor:
    """Algorithm 1 of Karras et al. 2022: 2 T - 1 calls."""
    levels = sigmas.tolist()
    for sigma, following in itertools.pairwise(levels):
        slope = (x - model(x, _at(x, sigma))) / sigma
        end = x + slope * (following - sigma)
        if following > 0:
            # the last step is Euler's, since the slope at level 0 has a divisor of 0
            second = (end - model(end, _at(x, following))) / following
            end = x + (slope + second) * ((following - sigma) / 2)
        x = end
    return x


def dpmpp_2m(model: Model, x: Tensor, sigmas: Tensor) -> Tensor:
    """Lu et al. 2022, arXiv 2211.01095, algorithm 2, of first order at both ends; lambda = -ln sigma."""
    levels = sigmas.tolist()
    previous, width = None, 0.0
    for sigma, following in itertools.pairwise(levels):
        denoised = model(x, _at(x, sigma))
        target = denoised
        if following > 0:
            # lambda is infinite at level 0, so the last step is of first order
            width, last = math.log(sigma / following), width
            if previous is not None:
                part = width / (2 * last)
                target = (1 + part) * denoised - part * previous
        x = (following / sigma) * x + (1 - following / sigma) * target
        previous = denoised
    return x


def euler_ancestral(model: Model, x: Tensor, sigmas: Tensor) -> Tensor:
    """Ho et al. 2020, arXiv 2006.11239, for added noise: move to sigma_down, then add noise of sigma_up."""
    levels = sigmas.tolist()
    for sigma, following in itertools.pairwise(levels):
        down, up = ancestral_split(sigma, following)
        slope = (x - model(x, _at(x, sigma))) / sigma
        x = x + slope * (down - sigma)
        if up > 0:
            x = x + torch.randn_like(x) * up
    return x


def ancestral_split(sigma: float, following: float) -> tuple[float, float]:
    """Return (sigma_down, sigma_up): the variance of the noise in x shrinks by (following / sigma)^2."""
    up = following * math.sqrt(1 - (following / sigma) ** 2)
    return following**2 / sigma, up
