"""Linear combinations of tensors and of counter-based normals in plain torch.

``out = sum_k c_k T_k + sum_m w_m z(seed, node_m)`` for tensors T_k of one shape [B, *shape]. The sum starts with
``c_0 T_0``, and the terms are added in their order; every product and every sum rounds on its own. Half
precisions are computed in float32 and rounded once. Coefficients and weights are rounded to the arithmetic first.

z(seed, node) are the normals of `edmfast.ops.noise.reference` with the step ``node mod 2^32`` and the next 28
bits of the node as the population. The particle of sample b is ``first_sample + b`` with one seed for all samples,
and 0 with one seed for each.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from edmfast.ops._shared.dtypes import arithmetic
from edmfast.ops.noise.reference import box_muller, philox

_MASK = 0xFFFFFFFF
_POPULATIONS = 0xFFFFFFF


def keeps_layout(tensors: Sequence[Tensor], noisy: bool) -> bool:
    """Return whether the result has the strides of the tensors. Otherwise it is contiguous.

    It has them where all tensors have the same strides and fill their memory, and no noise is drawn: the order of
    the noise is that of the elements of a sample.
    """
    first = tensors[0]
    return (
        not noisy
        and all(tensor.stride() == first.stride() for tensor in tensors)
        and torch.ops.aten.is_non_overlapping_and_dense(first)
    )


def normals(like: Tensor, seeds: Tensor, node: Tensor, stream: int, first_sample: int) -> Tensor:
    """Return the float32 normals of one node for samples [B, *shape].

    seeds: int64 [1] or [B]; node: int64, without dimensions.
    """
    batch = like.shape[0]
    elements = like[0].numel() if batch else 0
    blocks = (elements + 3) // 4
    block = torch.arange(blocks, device=like.device).expand(batch, blocks)
    particle = torch.arange(batch, device=like.device)[:, None] + first_sample
    if seeds.shape[0] != 1:
        particle = torch.zeros_like(particle)
    word = ((stream << 28) | ((node >> 32) & _POPULATIONS)) & _MASK
    counter = (
        block,
        (node & _MASK).expand_as(block),
        (particle & _MASK).expand_as(block),
        word.expand_as(block),
    )
    a, b, c, d = philox(counter, seeds[:, None])
    # word j of block b is element j * blocks + b, so the four results are joined along elements
    drawn = torch.cat([*box_muller(a, b), *box_muller(c, d)], dim=-1)
    return drawn[:, :elements].reshape(like.shape)


def combined(tensors: Sequence[Tensor], coefficients: Tensor) -> Tensor:
    """Return the combination without noise by a formula that all tracers of torch take."""
    if any(tensor.stride() != tensors[0].stride() for tensor in tensors):
        tensors = [tensor.contiguous() for tensor in tensors]
    return _sum(tensors, coefficients).to(tensors[0].dtype)


def _sum(tensors: Sequence[Tensor], coefficients: Tensor) -> Tensor:
    """Return sum_k c_k T_k in the dtype in which the tensors are computed."""
    dtype = arithmetic(tensors[0].dtype)
    terms = (c * t.to(dtype) for c, t in zip(coefficients.to(dtype), tensors, strict=True))
    total: Tensor = functools.reduce(torch.add, terms)
    return total


def linear_combination(
    tensors: Sequence[Tensor],
    coefficients: Tensor,
    seeds: Tensor | None,
    nodes: Tensor | None,
    weights: Tensor | None,
    stream: int,
    first_sample: int,
) -> Tensor:
    """Return the combination, like the tensors [B, *shape].

    coefficients: float64 [K]. seeds: int64 [1] or [B]; nodes: int64 [M]; weights: float64 [M]. All three are None
    where there is no noise.
    """
    noisy = seeds is not None and nodes is not None and weights is not None
    if not keeps_layout(tensors, noisy):
        tensors = [tensor.contiguous() for tensor in tensors]
    dtype = arithmetic(tensors[0].dtype)
    total = _sum(tensors, coefficients)
    if seeds is not None and nodes is not None and weights is not None:
        for weight, node in zip(weights.to(dtype), nodes, strict=True):
            z = normals(tensors[0], seeds, node, stream, first_sample)
            total = total + weight * z.to(dtype)
    return total.to(tensors[0].dtype)
