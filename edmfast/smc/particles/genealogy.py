"""Trace the genealogy of particles from the ancestors that a run recorded.

`ancestors[t, p, i]` (int32 [T, P, N]) is the index of the particle of level t that slot i copies after the
resampling decision at level t. The slot then moves to level t + 1 as particle i. Without resampling the index
is i. Correctors move slots in place and leave the genealogy as it is. The final particles are the slots after
the last level. Weights play no role here: a particle of weight zero counts unless it was replaced.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lineages(ancestors: Tensor) -> Tensor:
    """Return at (t, p, i) the index at level t of the ancestor of final particle i, int64 [T, P, N].

    lineages[T-1] = ancestors[T-1]; lineages[t] = ancestors[t] read at lineages[t+1].
    """
    # the walk goes backwards, because each level points to the one before it
    levels = [ancestors[-1].long()]
    for level in reversed(ancestors[:-1]):
        levels.append(level.long().gather(1, levels[-1]))
    return torch.stack(levels[::-1])


def lineage(ancestors: Tensor, population: int, particle: int) -> Tensor:
    """Return the index at every level of the ancestor of one final particle, int64 [T]."""
    index = torch.tensor(particle, device=ancestors.device)
    path = []
    for level in reversed(ancestors[:, population]):
        index = level[index].long()
        path.append(index)
    return torch.stack(path[::-1])


def descendants(ancestors: Tensor, level: int, population: int, particle: int) -> Tensor:
    """Return the sorted indices of the final particles that descend from one particle of a level, int64 [k]."""
    # for each final particle, this follows the index of its ancestor from the end down to the level
    index = torch.arange(ancestors.shape[2], device=ancestors.device)
    for later in reversed(ancestors[level:, population]):
        index = later.long()[index]
    return (index == particle).nonzero()[:, 0]


def unique_trace(ancestors: Tensor) -> Tensor:
    """Return how many particles of each level have a descendant among the final particles, int64 [T, P].

    The first row equals the last row of `Particles.survivors`, which counts the starting particles that have
    descendants after the decision at each level.
    """
    return _distinct(lineages(ancestors))


def _distinct(indices: Tensor) -> Tensor:
    """Return how many distinct indices there are along the last dimension, which holds N indices in 0..N-1."""
    # torch.unique does not count rows apart, and its size depends on data, for which it waits.
    present = torch.zeros_like(indices, dtype=torch.bool)
    return present.scatter_(-1, indices, torch.ones_like(present)).sum(-1)
