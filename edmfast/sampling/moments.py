"""Inner products and standard deviations of single samples, whose bits do not depend on the rest of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edmfast._internal.derivatives import is_recorded, is_transformed
from edmfast.ops.score_gram import score_gram


def inner_products(vectors: Sequence[Tensor]) -> Tensor:
    """Return the products <v_i, v_j> of M tensors [B, *shape] as float64 [B, M, M]."""
    stacked = torch.stack(list(vectors))
    if _is_plain(stacked):
        return score_gram(stacked[:, None])[0][0]
    flat = stacked.double().flatten(2).transpose(0, 1)
    return flat @ flat.mT


def standard_deviations(states: Sequence[Tensor]) -> Tensor:
    """Return the standard deviations of the elements of each sample, float64 [M, B], for M tensors [B, *shape]."""
    stacked = torch.stack(list(states))
    if not _is_plain(stacked):
        return stacked.double().flatten(2).std(2, correction=0)
    squares, sums = score_gram(stacked[:, None], torch.ones_like(stacked[:1]))
    elements = max(stacked[0, :1].numel(), 1)
    # Products of float32 are exact in float64, so this difference keeps the digits of the states.
    means, squares = sums[0] / elements, squares[0].diagonal(dim1=1, dim2=2) / elements
    return (squares - means.square()).clamp(min=0).sqrt().mT


def _is_plain(stacked: Tensor) -> bool:
    """Return whether the operator may run, which has no derivative."""
    return not is_recorded(stacked) and not is_transformed()
