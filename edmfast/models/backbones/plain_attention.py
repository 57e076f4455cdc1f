"""Attention that falls back to plain formulas under torch.func and forward mode, where kernels lack derivatives.

softmax(scale q kᵀ) v with the conventions of `edmfast.ops.attention`. The plain formulas are infinitely
differentiable in every mode, and their memory grows with the product of queries and keys.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edmfast._internal.derivatives import is_transformed
from edmfast.ops.attention.operator import attention


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    causal: bool = False,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Return `edmfast.ops.attention` of the arguments, or the same by plain formulas under a transform.

    q: [B, ..., L, d]. k, v: [B, ..., M, d]. key_mask: bool [B, M], True for keys that take part.
    """
    if not is_transformed():
        return attention(q, k, v, scale, causal, key_mask)
    # the softmax is computed in float32 for half types, as the kernels do
    wide = torch.float32 if q.dtype in (torch.float16, torch.bfloat16) else q.dtype
    factor = 1 / math.sqrt(max(1, q.shape[-1])) if scale is None else scale
    scores = factor * (q.to(wide) @ k.to(wide).mT)
    kept = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
    kept = kept.tril() if causal else kept
    if key_mask is not None:
        kept = kept & key_mask.reshape(len(key_mask), *[1] * (q.dim() - 2), -1)
    # -inf would give NaN in the derivatives of a row without keys; such rows are set to 0 below
    scores = torch.where(kept, scores, torch.finfo(wide).min)
    shares = torch.where(kept, torch.softmax(scores, -1), 0.0)
    return (shares @ v.to(wide)).to(q.dtype)
