"""Sampling by scaled scores: ancestral sampling with the score of the target, unweighted.

    x_u = x_s + tau² S(x_s) + tau (u/s) z,    S = sum_i a_i s_i(x_s),    starting from N(0, sigma_max² I)

This does not sample prod_i p_i^(a_i), because the sum of scores at a noise level is not the score of the noised
product. The demonstration compares sequential Monte Carlo with it. It is low-temperature sampling for p^gamma,
classifier-free guidance for Guided, and composition by sums of scores for Product. Source: Ho & Salimans 2022,
arXiv 2207.12598; Liu et al. 2022, arXiv 2206.01714.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from edmfast.ops import standard_normal
from edmfast.targets.protocols import Model
from edmfast.targets.scores import score_of


@torch.no_grad()
def score_scaled_samples(
    target: Model, gamma: float, like: Tensor, sigmas: Tensor, *, seed: int = 0
) -> Tensor:
    """Return samples [P, N, *shape] at the last of the sigmas.

    target: an energy, a denoiser or a sum of them, for P·N rows. gamma: a number that multiplies the score. like:
    a tensor with the shape and dtype of the samples; its numbers are not used. sigmas: strictly decreasing
    positive noise levels, in the units of x.
    """
    levels = [float(sigma) for sigma in sigmas]
    # stream 1 is that of the start of `smc.sample`, so both start from the same noise
    x = levels[0] * standard_normal(like, seed=seed, step=0, stream=1)
    for step, (s, u) in enumerate(itertools.pairwise(levels)):
        score = score_of(target, x.flatten(0, 1), s).detach()
        variance = s**2 - u**2
        noise = standard_normal(like, seed=seed, step=step)
        x = x + gamma * variance * score.view_as(x) + math.sqrt(variance) * u / s * noise
    return x
