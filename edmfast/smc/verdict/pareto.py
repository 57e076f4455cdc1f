"""Estimate the Pareto tail index k̂ of importance weights, which says how many of their moments exist.

A generalised Pareto distribution of shape k, with density (1/s) (1 + k w/s)^(-1/k - 1), is fitted to the
excesses w of the M largest of N weights over the next smaller one. Moments of order 1/k and above do not exist:
the weights have no variance for k >= 1/2 and no mean for k >= 1. Averages over N weights are unreliable for k
above min(1 - 1/log10(N), 0.7).

The fit is the one of Zhang and Stephens 2009, "A new and efficient estimation method for the generalized Pareto
distribution", Technometrics 51: with sorted exceedances w_1 <= ... <= w_M, m = 30 + floor(sqrt(M)) candidates

    b_j = 1/w_M + (1 - sqrt(m/(j - 1/2))) / (3 w_q),    q = floor(M/4 + 1/2),

k(b) = mean log(1 - b w), and b is the mean of the b_j with weights ∝ exp(M (log(-b_j/k(b_j)) - k(b_j) - 1)). M,
the threshold and the weak prior, which counts like ten exceedances of shape 1/2, are those of Vehtari et al.
2024, "Pareto smoothed importance sampling", arXiv 1507.02646.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FEWEST = 5
_PRIOR_COUNT, _PRIOR_SHAPE = 10, 0.5


def tail_size(particles: int) -> int:
    """Return M, the number of weights in the tail of N weights: ceil(min(N/5, 3 sqrt(N)))."""
    return math.ceil(min(0.2 * particles, 3 * math.sqrt(particles)))


def reliable_below(particles: int) -> float:
    """Return the k̂ above which averages over N weights are unreliable: min(1 - 1/log10(N), 0.7)."""
    return min(1 - 1 / math.log10(particles), 0.7) if particles > 10 else 0.0


def pareto_k(log_weights: Tensor) -> Tensor:
    """Return k̂ of each population, float64 [P], from log-weights [P, N] that need not be normalised.

    k̂ is NaN where the tail has fewer than 5 weights, or equal ones.
    """
    log_weights = log_weights.double().nan_to_num(-torch.inf, torch.inf, -torch.inf)
    populations, particles = log_weights.shape
    count = tail_size(particles)
    # The threshold is the next smaller weight behind the tail, so one weight must be left.
    if count < _FEWEST or count >= particles:
        return log_weights.new_full((populations,), torch.nan)
    # only ratios to the largest weight matter, and they do not overflow
    # The last of them is the threshold.
    top = log_weights.topk(count + 1, dim=1).values
    weights = (top - top[:, :1]).exp().flip(1)
    return generalised_pareto_shape(weights[:, 1:] - weights[:, :1])


def generalised_pareto_shape(exceedances: Tensor) -> Tensor:
    """Return the shape k of a generalised Pareto distribution that is fitted to each row, float64 [P].

    exceedances: [P, M], ascending and not negative. The weak prior pulls k towards 1/2. k is NaN for rows of equal
    numbers.
    """
    w = exceedances.double()
    count = w.shape[1]
    candidates = 30 + math.floor(math.sqrt(count))
    quartile, largest = w[:, math.floor(count / 4 + 0.5) - 1], w[:, -1]
    j = torch.arange(1, candidates + 1, dtype=torch.float64, device=w.device)
    # Every candidate b stays below 1/w_M, because log(1 - b w) exists only there.
    grid = 1 - (candidates / (j - 0.5)).sqrt()
    b = 1 / largest[:, None] + grid / (3 * quartile[:, None])
    # log1p keeps the digits of small exceedances.
    k = torch.log1p(-b[:, :, None] * w[:, None, :]).mean(2)
    profile = count * ((-b / k).log() - k - 1)
    mean = (torch.softmax(profile, 1) * b).sum(1, keepdim=True)
    shape = torch.log1p(-mean * w).mean(1)
    # the weak prior keeps short tails from extreme shapes
    shape = (count * shape + _PRIOR_COUNT * _PRIOR_SHAPE) / (count + _PRIOR_COUNT)
    spread = largest > 0
    return torch.where(spread & shape.isfinite(), shape, torch.nan)
