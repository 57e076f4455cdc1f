"""Attention as a composition of torch's functions, differentiable to any order in every mode.

Its memory grows with the product of queries and keys, so it serves only what the operators lack:
masks of single scores, transforms of torch.func, gradients of tangents, and tangents of tangents.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.ops._shared.dtypes import arithmetic
from edmfast.ops.attention.masks import split_mask


def composed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    scale: float,
    causal: bool,
    attn_mask: Tensor | None = None,
) -> Tensor:
    """Return softmax(scale q kᵀ + attn_mask) v, [..., L, e], in the dtype of q.

    q: [B, ..., L, d]. k, v: [B, ..., M, d], [B, ..., M, e]. key_mask: bool [B, M], True for keys that take part.
    attn_mask: broadcasts to [..., L, M], bool (True for scores that take part) or a number added to each score. A
    row without keys is 0.
    """
    # half precisions are computed in float32, as the kernels do
    wide = arithmetic(q.dtype)
    scores = scale * (q.to(wide) @ k.to(wide).mT)
    kept = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
    kept = kept.tril() if causal else kept
    if key_mask is not None:
        kept = kept & key_mask.reshape(len(key_mask), *[1] * (q.dim() - 2), -1)
    if attn_mask is not None:
        mask, bias = split_mask(attn_mask)
        kept = kept if mask is None else kept & mask
        scores = scores if bias is None else scores + bias.to(wide)
    # -inf would give NaN in the derivatives of a row without keys; such rows are set to 0 below
    scores = torch.where(kept, scores, torch.finfo(wide).min)
    shares = torch.where(kept, torch.softmax(scores, -1), 0.0)
    return (shares @ v.to(wide)).to(q.dtype)
