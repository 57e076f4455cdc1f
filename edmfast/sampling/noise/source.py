"""Sources of counter-based noise: which normals of the generator make the noise of an interval.

A source names its normals by numbers of nodes. The normal z(seed, node) is that of `edmfast.ops.standard_normal`
with the low 32 bits of the node as its step and the next 28 bits as its population, so it depends neither on the
batch size nor on the device. The unit noise of an interval of noise levels is a linear combination of a few nodes,
with weights that depend on the interval alone. A run therefore knows all its nodes and weights before it starts,
and one pass over the states draws the normals and adds them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edmfast.ops.linear_combination import linear_combination
from edmfast.sampling.engine.draws import NoiseSource

Nodes = tuple[Sequence[int], Sequence[float]]
"""The numbers of nodes and their weights, which are Python numbers."""


def shape_of(x: Tensor) -> Tensor:
    """Return a tensor of the shape, dtype and device of x that takes no memory for its elements.

    Raises TypeError where x is no tensor.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be the states [B, *shape] as a tensor, got {type(x).__name__}")
    return x.new_empty(()).expand(x.shape)


def evaluate(source: NoiseSource, nodes: Nodes, like: Tensor) -> Tensor:
    """Return sum_m w_m z(seed, node_m) in the shape, dtype and device of `like` [B, *shape].

    Raises TypeError where `like` is not floating point.
    """
    if not like.is_floating_point():
        raise TypeError(f"x must be floating point, got {like.dtype}")
    names, weights = nodes
    return linear_combination(
        [torch.zeros_like(like, memory_format=torch.contiguous_format)],
        (0.0,),
        seeds=source.seeds,
        nodes=torch.tensor(names, dtype=torch.int64, device=like.device),
        weights=torch.tensor(weights, dtype=torch.float64, device=like.device),
        stream=source.stream,
        first_sample=source.first_sample,
    )
