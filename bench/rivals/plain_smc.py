"""Sequential Monte Carlo as in its paper, in plain torch and float64: one population, noise of the counter.

Thornton et al. 2025, arXiv 2502.12786. Start: x_0 ~ N(0, sigma_max^2 I) with log-weight
-U + |x|^2 / (2 sigma_max^2). A step from s to u moves by N(x + tau^2 S, kappa tau^2 I), with
tau^2 = s^2 - u^2 and kappa = (u^2 + c^2) / (s^2 + c^2). Its weight is N(x_s; x_u, tau^2 I) over the density of
the move, times exp(U(x_s, s) - U(x_u, u)). The population is resampled where its effective sample size is below
half, never at the last level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from edmfast.ops import rng_state
from edmfast.ops.noise.reference import noise, uniform

START_STREAM = 1
Answer = tuple[Tensor, Tensor]


class Run(NamedTuple):
    """log_z [1]; ess [T, 1] before resampling; mean [1, *shape] of the weighted states at the end."""

    log_z: Tensor
    ess: Tensor
    mean: Tensor


def run(
    energy_and_score: Callable[[Tensor, Tensor], Answer],
    shape: tuple[int, ...],
    sigmas: Tensor,
    particles: int,
    data_std: float,
) -> Run:
    device = sigmas.device
    like = torch.empty(1, particles, math.prod(shape), dtype=torch.float64, device=device)

    def normals(step: int, stream: int) -> Tensor:
        # a run of ours has the same noise, so the two answers agree up to rounding
        drawn = noise(like, rng_state(0, step, device), stream, 0, 0)
        return drawn.view(particles, *shape)

    def log_normal(difference: Tensor, variance: float) -> Tensor:
        """Return the log-density up to the factor of 2 pi."""
        square = difference.flatten(1).square().sum(1)
        return -0.5 * (square / variance + like.shape[2] * math.log(variance))

    levels = sigmas.tolist()
    x = levels[0] * normals(0, START_STREAM)
    energy, score = energy_and_score(x, sigmas[0])
    log_weights = -energy + x.flatten(1).square().sum(1) / (2 * levels[0] ** 2)
    log_z = torch.zeros(1, dtype=torch.float64, device=device)
    sizes = []
    for index, s in enumerate(levels):
        weights = log_weights.softmax(0)
        sizes.append(1 / weights.square().sum())
        if index + 1 == len(levels):
            break
        if sizes[-1] < 0.5 * particles:
            log_z = log_z + log_weights.logsumexp(0) - math.log(particles)
            log_weights = torch.zeros_like(log_weights)
            u_0 = uniform(rng_state(0, index, device), 1)
            slots = (torch.arange(particles, device=device) + u_0) / particles
            chosen = torch.searchsorted(weights.cumsum(0), slots, right=True)
            # rounding may leave the last sum below a slot
            chosen = chosen.clamp(max=particles - 1)
            x, energy, score = x[chosen], energy[chosen], score[chosen]
        u = levels[index + 1]
        tau2 = s**2 - u**2
        forward = (u**2 + data_std**2) / (s**2 + data_std**2) * tau2
        mean = x + tau2 * score
        moved = mean + math.sqrt(forward) * normals(index, 0)
        ratio = log_normal(x - moved, tau2) - log_normal(moved - mean, forward)
        past, (energy, score) = energy, energy_and_score(moved, sigmas[index + 1])
        log_weights, x = log_weights + ratio - (energy - past), moved
    log_z = log_z + log_weights.logsumexp(0) - math.log(particles)
    mean = (weights.view(-1, *[1] * len(shape)) * x).sum(0)
    return Run(log_z, torch.stack(sizes)[:, None], mean[None])
