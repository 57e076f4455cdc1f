"""The particle filter that the weighted rivals share: move, weigh, resample systematically below a threshold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bench.rivals.control.outcome import Outcome
from bench.rivals.control.terms import Terms


class State(NamedTuple):
    """x: [P, N, *shape]. scores: [P, N, M, *shape] of all models at x, or None. log_weights: [P, N]."""

    x: Tensor
    scores: Tensor | None
    log_weights: Tensor


class Moved(NamedTuple):
    """x: the states at the next level. increments: those of the log-weights, [P, N]. scores: at x, or None."""

    x: Tensor
    increments: Tensor
    scores: Tensor | None = None


Step = Callable[[State, float, float, torch.Generator], Moved]
"""step(state, s, u, generator) moves the particles from level s to level u."""


def normals(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normals like the given tensor."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)


def follow(
    step: Step,
    terms: Terms,
    shape: Sequence[int],
    levels: Sequence[float],
    *,
    particles: int,
    populations: int,
    seed: int,
    threshold: float,
) -> Outcome:
    """Return the outcome of a filter that starts from N(0, (sigma_max²/A) I) with equal weights."""
    generator = torch.Generator().manual_seed(seed)
    empty = torch.empty(populations, particles, *shape, dtype=torch.float64)
    x = levels[0] / math.sqrt(terms.total) * normals(empty, generator)
    state = State(x, None, torch.zeros(populations, particles, dtype=torch.float64))
    variance = torch.zeros(populations, dtype=torch.float64)
    log_z = variance + terms.log_z_of_start(levels[0], math.prod(shape))
    origins = torch.arange(particles).repeat(populations, 1)
    last = len(levels) - 2
    for index, (s, u) in enumerate(itertools.pairwise(levels)):
        moved = step(state, s, u, generator)
        log_weights = state.log_weights + moved.increments
        state = State(moved.x, moved.scores, log_weights)
        variance = variance + moved.increments.var(1)
        weights = log_weights.softmax(1)
        low = 1 / weights.square().sum(1) < threshold * particles
        if index == last or not low.any():
            continue
        ancestors = systematic(weights, generator)
        ancestors[~low] = torch.arange(particles)
        log_mean = log_weights.logsumexp(1) - math.log(particles)
        log_z = torch.where(low, log_z + log_mean, log_z)
        log_weights = torch.where(low[:, None], 0.0, log_weights)
        scores = None if state.scores is None else _take(state.scores, ancestors)
        state = State(_take(state.x, ancestors), scores, log_weights)
        origins = origins.gather(1, ancestors)
    log_z = log_z + state.log_weights.logsumexp(1) - math.log(particles)
    kept = torch.tensor([len(row.unique()) / particles for row in origins], dtype=torch.float64)
    return Outcome(state.x, state.log_weights, variance, log_z, kept, terms.forwards, terms.vjps)


def _take(values: Tensor, ancestors: Tensor) -> Tensor:
    return torch.stack([one[chosen] for one, chosen in zip(values, ancestors, strict=True)])


def systematic(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return ancestors [P, N] from normalised weights [P, N]."""
    count = weights.shape[1]
    offsets = torch.rand(len(weights), 1, generator=generator, dtype=torch.float64)
    slots = (torch.arange(count) + offsets) / count
    cumulative = weights.cumsum(1)
    chosen = torch.searchsorted(cumulative / cumulative[:, -1:], slots, right=True)
    return chosen.clamp(max=count - 1)


def log_normal(difference: Tensor, variance: float) -> Tensor:
    """Return log N(difference; 0, variance I) [P, N] of [P, N, *shape], without the factor of 2 pi."""
    squares = difference.flatten(2).square()
    return -0.5 * (squares.sum(2) / variance + squares.shape[2] * math.log(variance))
