"""Inner products and standard deviations of single samples, whose bits do not depend on the rest of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from edmfast._internal.derivatives import is_recorded, is_transformed
from edmfast.ops.score_gram import score_gram


def inner_products(vectors: Sequence[Tensor]) -> Tensor:
    """Return the products <v_i, v_j> of M tensors [B, *shape] as float64 [B, M, M]."""
    if _by_operator(vectors):
        return score_gram(torch.stack(list(vectors))[:, None])[0][0]
    flat = [vector.double().flatten(1) for vector in vectors]
    rows = [torch.stack([(first * second).sum(1) for second in flat], 1) for first in flat]
    return torch.stack(rows, 1)


def standard_deviations(states: Sequence[Tensor]) -> Tensor:
    """Return the standard deviations of the elements of each sample, float64 [M, B], for M tensors [B, *shape]."""
    if not _by_operator(states):
        return torch.stack([state.double().flatten(1).std(1, correction=0) for state in states])
    stacked = torch.stack(list(states))
    squares, sums = score_gram(stacked[:, None], torch.ones_like(stacked[:1]))
    elements = max(stacked[0, :1].numel(), 1)
    # Products of float32 are exact in float64, so this difference keeps the digits of the states.
    means, squares = sums[0] / elements, squares[0].diagonal(dim1=1, dim2=2) / elements
    return (squares - means.square()).clamp(min=0).sqrt().mT


def _by_operator(tensors: Sequence[Tensor]) -> bool:
    """Return whether the operator may run. It has no derivative."""
    # A compiler fuses the plain formula. With the operator and its stacked states, inductor of torch 2.13 computes
    # other numbers than the graph of two steps that it is given.
    traced = torch.compiler.is_compiling() or get_proxy_mode() is not None
    return not traced and not is_recorded(*tensors) and not is_transformed()
