"""The linear combination of the engine in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edmfast.ops import standard_normal


def linear_combination(
    tensors: Sequence[Tensor],
    coefficients: Sequence[float] | Tensor,
    *,
    seeds: Tensor | None = None,
    nodes: Tensor | None = None,
    weights: Tensor | None = None,
    stream: int = 0,
    first_sample: int = 0,
) -> Tensor:
    """Return sum_k coefficient_k tensor_k + sum_m weight_m z(seed, node_m)."""
    values = list(torch.as_tensor(coefficients, dtype=torch.float64).unbind())
    result = tensors[0] * float(values[0])
    for tensor, value in zip(tensors[1:], values[1:], strict=True):
        result = result + tensor * float(value)
    if seeds is not None and nodes is not None and weights is not None:
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            result = result + weight * _normals(result, seeds, node, stream, first_sample)
    return result


def _normals(like: Tensor, seeds: Tensor, node: int, stream: int, first_sample: int) -> Tensor:
    place: dict[str, Any] = {
        "step": node % 2**32,
        "stream": stream,
        "first_population": node >> 32,
    }
    if len(seeds) == 1:
        seed = int(seeds) % 2**64
        return standard_normal(like[None], seed=seed, first_particle=first_sample, **place)[0]
    rows = [
        standard_normal(like[None, b : b + 1], seed=int(seed) % 2**64, **place)[0, 0]
        for b, seed in enumerate(seeds)
    ]
    return torch.stack(rows)
