"""Self-attention with several heads, softmax(q kᵀ/sqrt(d)) v with d numbers per head and position.

`edmfast.ops.attention` computes it, so that an energy can be trained through it in memory linear in the number of
positions. It has derivatives to second order, and a third derivative raises. Forward mode and torch.func use plain
formulas. On the CPU, positions and d are padded to multiples of four, for the reason that
`edmfast._internal.batch_invariant` gives, and the padded keys are masked.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from edmfast.models.backbones.plain_attention import attend as attention


def self_attention(qkv: torch.Tensor, heads: int) -> torch.Tensor:
    """Return [B, L, W] from qkv [B, L, 3 W], the queries, keys and values of W = heads·d numbers each."""
    batch, length, _ = qkv.shape
    split = torch.unflatten(qkv, 2, (3, heads, -1))
    size = split.shape[-1]
    key_mask = None
    if qkv.device.type == "cpu":
        # rows that are no multiple of four would be summed in another order for some samples
        positions, numbers = -length % 4, -size % 4
        if positions or numbers:
            split = F.pad(split, (0, numbers, 0, 0, 0, 0, 0, positions))
        if positions:
            real = torch.arange(length + positions, device=qkv.device) < length
            key_mask = real.expand(batch, -1)
    split = split.permute(2, 0, 3, 1, 4)
    # kernels on a GPU read any strides, while on the CPU one copy here saves one per order of derivative
    q, k, v = split.contiguous() if qkv.device.type == "cpu" else split
    attended = attention(q, k, v, size**-0.5, key_mask=key_mask).transpose(1, 2)
    return attended[:, :length, :, :size].flatten(2)
