"""Checks of the operands of attention, the same for every implementation of its operators.

A kernel addresses memory by the shapes of q, k and v alone. Without these checks it would read beyond the end of
an operand of another shape, dtype or device, and plain torch would broadcast such an operand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edmfast.ops._shared.dtypes import arithmetic


def check_forward(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> None:
    """Raise ValueError unless q is [B, H, L, d], k [B, H, M, d], v [B, H, M, e] and key_mask [B, M]."""
    if min(q.dim(), k.dim(), v.dim()) != 4 or max(q.dim(), k.dim(), v.dim()) != 4:
        raise ValueError(
            f"q, k and v must have four dimensions, got {q.dim()}, {k.dim()}, {v.dim()}"
        )
    _check("k", k, q, (*q.shape[:2], k.shape[2], q.shape[3]))
    _check("v", v, q, (*k.shape[:3], v.shape[3]))
    if key_mask is not None:
        _check("key_mask", key_mask, q, (q.shape[0], k.shape[2]), torch.bool)


def check_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Tensor | None
) -> None:
    """Raise ValueError unless `check_forward` passes, grad and out are [B, H, L, e] and lse is [B, H, L]."""
    check_forward(q, k, v, mask)
    _check("grad", grad, q, (*q.shape[:3], v.shape[3]))
    _check("out", out, q, (*q.shape[:3], v.shape[3]))
    _check("lse", lse, q, q.shape[:3], arithmetic(q.dtype))


def check_double_backward(a: Tensor, b: Tensor, c: Tensor, *rest: Any) -> None:
    """Raise ValueError unless a, b and c are like q, k and v, and `check_backward` passes for the rest."""
    check_backward(*rest)
    for name, tensor, like in zip("abc", (a, b, c), rest[1:4], strict=True):
        _check(name, tensor, like, like.shape)


def check_jvp(*operands: Tensor | None) -> None:
    """Raise ValueError unless tangents are like q, k and v, or None, and `check_forward` passes for the rest."""
    *tangents, q, k, v, mask = operands
    assert q is not None
    assert k is not None
    assert v is not None
    check_forward(q, k, v, mask)
    for name, tangent, like in zip("qkv", tangents, (q, k, v), strict=True):
        if tangent is not None:
            _check(f"the tangent of {name}", tangent, like, like.shape)


def _check(
    name: str,
    tensor: Tensor,
    like: Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype | None = None,
) -> None:
    dtype = like.dtype if dtype is None else dtype
    if tensor.shape != shape:
        raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
    if tensor.dtype != dtype or tensor.device != like.device:
        raise ValueError(
            f"{name} must be {dtype} on {like.device}, got {tensor.dtype} on {tensor.device}"
        )
