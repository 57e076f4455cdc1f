"""Take equally weighted samples from weighted populations, by systematic resampling."""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.ops import rng_state
from edmfast.ops.noise.reference import uniform
from edmfast.smc.particles.data import ParticleData

_SAMPLES_STREAM = 11


def pooled_weights(particles: ParticleData, evidence: bool) -> Tensor:
    """Return the weight of every particle in all populations together, float64 [P, N], summing to 1.

    evidence: True weighs populations by their Z, and those that collapsed get no weight. False weighs all equally.
    """
    weights = particles.weights
    if not evidence:
        return weights / len(weights)
    log_z = particles.surviving_log_z().nan_to_num(-torch.inf, torch.inf, -torch.inf)
    # with no evidence at all, no population is better than another
    if bool((log_z == -torch.inf).all()):
        return weights / len(weights)
    # softmax of an infinite log Z would be NaN
    return weights * torch.softmax(log_z.clamp(max=1e300), 0)[:, None]


def equally_weighted_index(
    particles: ParticleData, count: int, seed: int, evidence: bool
) -> Tensor:
    """Return indices int64 [count] into the P·N particles, by systematic resampling, in random order."""
    cumulative = pooled_weights(particles, evidence).flatten().cumsum(0)
    device = cumulative.device
    state = rng_state(seed, 0, device)
    # the stream keeps these numbers apart from those of the run and of `draw`
    offset = uniform(state, 1, particles.first_population, stream=_SAMPLES_STREAM)
    points = (torch.arange(count, device=device, dtype=torch.float64) + offset) / count
    # right=True passes over particles of weight zero, whose cumulative weight is that of the one
    # before.
    index = torch.searchsorted(cumulative, points * cumulative[-1], right=True)
    # On the CPU, so that the order is the same for all devices; modulo 2^64, because -1 and 2^64 -
    # 1 are one seed.
    generator = torch.Generator().manual_seed(seed % 2**64)
    # systematic resampling sorts the samples by particle, so a prefix of them would be unfair
    order = torch.randperm(count, generator=generator).to(device)
    # rounding must not select a particle of weight zero behind the last one that has a weight
    return index.clamp(max=int(torch.searchsorted(cumulative, cumulative[-1])))[order]
