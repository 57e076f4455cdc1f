"""Attention that falls back to plain formulas under torch.func, where kernels lack derivatives.

softmax(scale q kᵀ) v with the conventions of `edmfast.ops.attention`, which also has a kernel for forward mode.
The plain formulas are infinitely differentiable in every mode, and their memory grows with the product of queries
and keys.
"""

from __future__ import annotations

import math

from torch import Tensor

from edmfast._internal.derivatives import is_only_forward, is_transformed
from edmfast.ops.attention.composition import composed
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
    if not is_transformed() or is_only_forward(q, k, v):
        return attention(q, k, v, scale, causal, key_mask)
    factor = 1 / math.sqrt(max(1, q.shape[-1])) if scale is None else scale
    return composed(q, k, v, key_mask, factor, causal)
