"""Who descends from whom, from the ancestors a run recorded.

`ancestors[t, p, i]` (int32 [T, P, N]) is the particle of level t whose place slot i took after the resampling
decision at level t: the slot i then moves to level t + 1 as particle i. Where nothing was resampled it is i.
Correctors move slots in place and leave the genealogy as it is. The final particles are the slots after the
last level. Nothing here looks at weights: a particle of weight zero that was not replaced counts.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lineages(ancestors: Tensor) -> Tensor:
    """int64 [T, P, N]: at (t, p, i), the index at level t of the ancestor of final particle i.

    lineages[T-1] = ancestors[T-1]; lineages[t] = ancestors[t] read at lineages[t+1].
    """
    levels = [ancestors[-1].long()]
    for level in reversed(ancestors[:-1]):
        levels.append(level.long().gather(1, levels[-1]))
    return torch.stack(levels[::-1])


def lineage(ancestors: Tensor, population: int, particle: int) -> Tensor:
    """int64 [T]: the index at every level of the ancestor of one final particle."""
    index = torch.tensor(particle, device=ancestors.device)
    path = []
    for level in reversed(ancestors[:, population]):
        index = level[index].long()
        path.append(index)
    return torch.stack(path[::-1])


def descendants(ancestors: Tensor, level: int, population: int, particle: int) -> Tensor:
    """int64 [k], sorted: the final particles that descend from one particle of a level, perhaps none."""
    index = torch.arange(ancestors.shape[2], device=ancestors.device)
    for later in reversed(ancestors[level:, population]):
        index = later.long()[index]
    return (index == particle).nonzero()[:, 0]


def unique_trace(ancestors: Tensor) -> Tensor:
    """int64 [T, P]: how many particles of each level have a descendant among the final particles.

    Its first row equals the last one of `Particles.survivors`, which counts the starting particles with
    descendants after the decision at each level.
    """
    return _distinct(lineages(ancestors))


def _distinct(indices: Tensor) -> Tensor:
    """Number of distinct values in 0..N-1 along the last dimension, of N values."""
    present = torch.zeros_like(indices, dtype=torch.bool)
    return present.scatter_(-1, indices, torch.ones_like(present)).sum(-1)
