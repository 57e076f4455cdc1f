"""Low-temperature sampling by score scaling: ancestral sampling with the score multiplied by gamma, unweighted.

    x_u = x_s + tau² gamma s(x_s) + tau (u/s) z,    starting from N(0, sigma_max² I)

This does not sample p^gamma, because gamma times the score of p(.; sigma) is not the score of the noised
p^gamma. The demonstration compares sequential Monte Carlo with it. Source: Ho & Salimans 2022, arXiv
2207.12598, scale guidance in the same way.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from edmfast.models.calling.foreign import call_energy
from edmfast.ops import standard_normal
from edmfast.targets.protocols import Target


@torch.no_grad()
def score_scaled_samples(
    target: Target, gamma: float, like: Tensor, sigmas: Tensor, *, seed: int = 0
) -> Tensor:
    """Return samples [P, N, *shape] at the last of the sigmas.

    target: an energy of exponent 1. like: a tensor with the shape and dtype of the samples; its numbers are not
    used. sigmas: strictly decreasing positive noise levels, in the units of x.
    """
    levels = [float(sigma) for sigma in sigmas]
    # stream 1 is that of the start of `smc.sample`, so both start from the same noise
    x = levels[0] * standard_normal(like, seed=seed, step=0, stream=1)
    for step, (s, u) in enumerate(itertools.pairwise(levels)):
        _, score = call_energy(target, x.flatten(0, 1), s)
        variance = s**2 - u**2
        noise = standard_normal(like, seed=seed, step=step)
        x = x + gamma * variance * score.view_as(x) + math.sqrt(variance) * u / s * noise
    return x
