"""What people do without weights: ancestral sampling with the score multiplied by gamma.

x_u = x_s + tau² gamma s(x_s) + tau (u/s) z, from N(0, sigma_max² I), at the model's own noise
levels. It is no sampler of p^gamma: gamma times the score of p(.; sigma) is not the score of the
noised p^gamma. Known as low-temperature sampling by score scaling (Ho & Salimans 2022, arXiv
2207.12598, scale guidance alike); here the baseline that sequential Monte Carlo is measured by.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from edmfast.models.calling.foreign import call_energy
from edmfast.ops import standard_normal


@torch.no_grad()
def score_scaled_samples(
    target: Any, gamma: float, like: Tensor, sigmas: Tensor, *, seed: int = 0
) -> Tensor:
    """Samples of the shape and dtype of like [P, N, *shape], at the last of the positive sigmas.

    target: energy_and_score(x [P·N, *shape], sigma), of exponent 1.
    """
    levels = [float(sigma) for sigma in sigmas]
    x = levels[0] * standard_normal(like, seed=seed, step=0, stream=1)
    for step, (s, u) in enumerate(itertools.pairwise(levels)):
        _, score = call_energy(target, x.flatten(0, 1), s)
        variance = s**2 - u**2
        noise = standard_normal(like, seed=seed, step=step)
        x = x + gamma * variance * score.view_as(x) + math.sqrt(variance) * u / s * noise
    return x
