"""Inner products of the scores of every particle, in plain torch and float64.

``G_ij = <s_i, s_j>`` and ``n_i = <s_i, v>`` over the elements of a sample. The product of two numbers of float32
or a half precision is exact in float64, so only the sums round.
"""

from __future__ import annotations

import torch
from torch import Tensor


def score_gram(scores: Tensor, displacement: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return (G [P, N, M, M], n [P, N, M]) of scores [M, P, N, d] and a displacement [P, N, d].

    Without a displacement n is [P, N, 0].
    """
    count, populations, particles = scores.shape[:3]
    gram = scores.new_empty((populations, particles, count, count), dtype=torch.float64)
    wide = scores.double()
    for i in range(count):
        # G is symmetric, so each product is taken once
        for j in range(i, count):
            gram[..., i, j] = gram[..., j, i] = (wide[i] * wide[j]).sum(-1)
    if displacement is None:
        return gram, gram.new_empty((populations, particles, 0))
    along = [(score * displacement.double()).sum(-1) for score in wide]
    return gram, torch.stack(along, -1)
