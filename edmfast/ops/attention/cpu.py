"""Attention and its first derivative on the CPU by torch's own fused kernel, where it computes the same.

The kernel keeps blocks of P in the first caches, and it returns the log-sum-exp that the derivatives start from.
Half precisions are widened to float32 for it, because it would round P to them. The reference, which reads the
same log-sum-exp, works where torch's kernel

- has no second derivative;
- needs a tensor of L x M numbers for a key mask;
- wants heads of one width;
- multiplies the -inf of causality by the scale, so that it stays -inf only if the scale is a positive normal
  number;
- takes a row of NaN for a row without keys, where there are fewer keys than a vector has lanes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.ops._shared.dtypes import arithmetic, widened
from edmfast.ops.attention import reference
from edmfast.ops.attention.checks import check_backward, check_forward

# numbers in the widest vector of a CPU
_LANES = 16


def _fused(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, scale: float, causal: bool
) -> bool:
    """Return whether torch's fused kernel computes the same as the reference."""
    # torch's kernel takes a key mask as L x M numbers, and wants one width
    if key_mask is not None or v.shape != k.shape:
        return False
    # a scale that is not positive and normal would turn -inf into NaN or +inf
    stays_infinite = not causal or scale >= torch.finfo(arithmetic(q.dtype)).tiny
    # with fewer keys than lanes, a row of NaN would pass for a row without keys
    return stays_infinite and k.shape[2] >= _LANES and min(*q.shape, *k.shape) > 0


def _rows(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors, widened, with the numbers of a row side by side: the kernel ignores their stride."""
    return [
        tensor if tensor.stride(-1) == 1 else tensor.contiguous()
        for tensor in map(widened, tensors)
    ]


def attention(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """See `edmfast.ops.attention.reference.attention`."""
    check_forward(q, k, v, key_mask)
    if not _fused(q, k, v, key_mask, scale, causal):
        return reference.attention(q, k, v, key_mask, scale, causal)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *_rows(q, k, v), 0.0, causal, scale=scale
    )
    return out.contiguous().to(q.dtype), lse.contiguous()


def attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    key_mask: Tensor | None,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `edmfast.ops.attention.reference.attention_backward`."""
    check_backward(grad, q, k, v, out, lse, key_mask)
    if not _fused(q, k, v, key_mask, scale, causal):
        return reference.attention_backward(grad, q, k, v, out, lse, key_mask, scale, causal)
    gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *_rows(grad, q, k, v, out), lse, 0.0, causal, scale=scale
    )
    dq, dk, dv = (gradient.contiguous().to(q.dtype) for gradient in gradients)
    return dq, dk, dv
