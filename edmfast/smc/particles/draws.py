"""Equally weighted samples from weighted populations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edmfast.ops import rng_state
from edmfast.ops.noise.reference import uniform

if TYPE_CHECKING:
    from edmfast.smc.particles.particles import Particles

_SAMPLES_STREAM = 11


def shares(particles: Particles, evidence: bool) -> Tensor:
    """Return the share float64 [P, N] of every particle in all populations together, summing to 1.

    evidence: populations count by their Z, those that collapsed for nothing; else all alike.
    """
    weights = particles.weights
    if not evidence:
        return weights / len(weights)
    log_z = particles._surviving_log_z().nan_to_num(-torch.inf, torch.inf, -torch.inf)
    if bool((log_z == -torch.inf).all()):
        return weights / len(weights)
    return weights * torch.softmax(log_z.clamp(max=1e300), 0)[:, None]


def equally_weighted(particles: Particles, count: int, seed: int, evidence: bool) -> Tensor:
    """Return indices int64 [count] into the P·N particles, by systematic resampling, in random order."""
    cumulative = shares(particles, evidence).flatten().cumsum(0)
    device = cumulative.device
    state = rng_state(seed, 0, device)
    offset = uniform(state, 1, particles.first_population, stream=_SAMPLES_STREAM)
    points = (torch.arange(count, device=device, dtype=torch.float64) + offset) / count
    index = torch.searchsorted(cumulative, points * cumulative[-1], right=True)
    generator = torch.Generator().manual_seed(seed % 2**64)
    order = torch.randperm(count, generator=generator).to(device)
    # rounding must not name a particle of weight zero behind the last one
    return index.clamp(max=int(torch.searchsorted(cumulative, cumulative[-1])))[order]
