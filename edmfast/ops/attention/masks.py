"""Grouped queries and masks of single scores, which attention maps to its operators or to plain formulas."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edmfast.ops._shared.dtypes import DTYPES


def check_mask(mask: Tensor, q: Tensor, k: Tensor) -> None:
    """Raise TypeError or ValueError unless a mask is bool or floating and broadcasts to [..., L, M] of q and k."""
    if mask.dtype != torch.bool and mask.dtype not in DTYPES:
        raise TypeError(
            f"attn_mask must be bool, float16, bfloat16, float32 or float64, got {mask.dtype}"
        )
    if mask.device != q.device:
        raise ValueError(f"attn_mask must be on {q.device} as q, got {mask.device}")
    scores = *q.shape[:-1], k.shape[-2]
    pairs = zip(reversed(mask.shape), reversed(scores), strict=False)
    if mask.dim() > len(scores) or any(size not in (1, wanted) for size, wanted in pairs):
        raise ValueError(f"attn_mask must broadcast to {list(scores)}, got {list(mask.shape)}")


def as_key_mask(mask: Tensor, q: Tensor, k: Tensor) -> Tensor | None:
    """Return a mask as bool [B, M] where it only says which keys a batch entry has, or None."""
    if mask.dtype != torch.bool:
        return None
    full = mask[(None,) * (q.dim() - mask.dim())]
    if any(size != 1 for size in full.shape[1:-1]):
        return None
    return full.reshape(full.shape[0], full.shape[-1]).expand(q.shape[0], k.shape[-2])


def split_mask(mask: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return (a bool mask, a finite bias) of the scores; either may be None.

    An infinity in a bias would make the derivatives of the scores NaN, so that it becomes part of the mask.
    """
    if mask.dtype == torch.bool:
        return mask, None
    kept = mask != -math.inf
    return kept, torch.where(kept, mask, 0.0)


def group_queries(q: Tensor, k: Tensor, v: Tensor, folded: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v with equally many heads, where one head of k and v serves several neighbours of q.

    folded: the queries of a group become positions of one head, which copies neither k nor v. Otherwise k and v
    are repeated. Raises ValueError unless the heads of k and v, in the third dimension from the end, divide those
    of q.
    """
    if min(q.dim(), k.dim(), v.dim()) < 4:
        shapes = [tuple(tensor.shape) for tensor in (q, k, v)]
        raise ValueError(f"with enable_gqa q, k and v must be [B, ..., heads, L, D], got {shapes}")
    heads, fewer = q.shape[-3], k.shape[-3]
    if v.shape[-3] != fewer or fewer == 0 or heads % fewer:
        raise ValueError(
            f"the heads of k and v must divide the {heads} heads of q, got {fewer} and {v.shape[-3]}"
        )
    group = heads // fewer
    if folded:
        return q.unflatten(-3, (fewer, group)).flatten(-3, -2), k, v
    return q, k.repeat_interleave(group, -3), v.repeat_interleave(group, -3)
