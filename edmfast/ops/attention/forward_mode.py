"""Attention of tensors with forward-mode tangents: one operator, or plain formulas for more derivatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import forward_ad

from edmfast._internal.derivatives import carries_tangent, is_only_forward
from edmfast.ops.attention.composition import composed


def attention_along(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, scale: float, causal: bool
) -> Tensor:
    """Return attention with its tangent, for q, k or v that carry tangents; see `edmfast.ops.attention`."""
    if not is_only_forward(q, k, v):
        return composed(q, k, v, key_mask, scale, causal)
    pairs = [forward_ad.unpack_dual(tensor) for tensor in (q, k, v)]
    # in forward mode of forward mode, what is left still carries the tangents of the outer level
    if carries_tangent(*(part for pair in pairs for part in pair)):
        return composed(q, k, v, key_mask, scale, causal)
    lead = q.shape[0], math.prod(q.shape[1:-2])

    def by_head(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.reshape(*lead, *tensor.shape[-2:])

    tangents = [by_head(pair.tangent) for pair in pairs]
    primals = [by_head(pair.primal) for pair in pairs]
    out, tangent = torch.ops.edmfast.attention_jvp(*tangents, *primals, key_mask, scale, causal)
    shape = *q.shape[:-1], v.shape[-1]
    dual: Tensor = forward_ad.make_dual(out.reshape(shape), tangent.reshape(shape))
    return dual
