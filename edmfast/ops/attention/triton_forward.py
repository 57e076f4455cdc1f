"""Forward attention by Triton: each program takes one block of queries through all keys.

The program corrects the maximum and the sum of the exponentials with each block of keys, so it computes every
score once, and divides by the sum at the end.
Sources: Dao et al. 2022, arXiv 2205.14135; Dao 2023, arXiv 2307.08691.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from edmfast.ops.attention.triton_launch import launch
from edmfast.ops.attention.triton_tiles import (
    LN_2,
    LOG2_E,
    accumulate,
    attended,
    key_ranges,
    load_side,
    of_head,
    place,
    product,
    store,
    store_row,
)


@triton.jit
def _forward_block(
    weighted,
    total,
    best,
    first,
    q_side,
    inputs,
    at,
    scale,
    D: tl.constexpr,
    E: tl.constexpr,
    PADDED_D: tl.constexpr,
    PADDED_E: tl.constexpr,
    CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    CHUNK: tl.constexpr,
    UNIT: tl.constexpr,
    CHECKED: tl.constexpr,
):
    """Return (weighted, total, best) with the terms of the block of keys from `first`."""
    k, v, mask = inputs
    batch, head, query, keys = at
    zero = tl.zeros([QUERIES, KEYS], tl.float32)
    key = first + tl.arange(0, KEYS)
    k_side = load_side(k, batch, head, key, keys, D, PADDED_D, CHUNK, UNIT, CHECKED)
    scores = product(zero, q_side, k_side, D, PADDED_D, CHUNK, PRECISION) * (scale * LOG2_E)
    if CHECKED:
        counts = attended(mask, batch, query[:, None], key[None, :], keys, CAUSAL)
        scores = tl.where(counts, scores, float("-inf"))
    highest = tl.maximum(best, tl.max(scores, axis=1))
    # a row without keys so far gives exp(-inf - 0) = 0
    centre = tl.where(highest == float("-inf"), 0.0, highest)
    p = tl.exp2(scores - centre[:, None])
    # the sums so far are relative to the previous maximum
    shrink = tl.exp2(best - centre)
    total = total * shrink + tl.sum(p, axis=1)
    v_side = load_side(v, batch, head, key, keys, E, PADDED_E, CHUNK, UNIT, CHECKED)
    weighted *= shrink[:, None]
    weighted = accumulate(weighted, p, v_side, E, PADDED_E, CHUNK, PRECISION)
    return weighted, total, highest


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def forward_kernel(
    q,
    k,
    v,
    mask,
    out,
    lse,
    scale,
    heads,
    queries,
    keys,
    D: tl.constexpr,
    E: tl.constexpr,
    PADDED_D: tl.constexpr,
    PADDED_E: tl.constexpr,
    CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    CHUNK: tl.constexpr,
    UNIT: tl.constexpr,
):
    """Write out [B, H, L, E] and lse float32 [B, H, L]."""
    batch, head, start = place(queries, heads, QUERIES, CAUSAL)
    query = start + tl.arange(0, QUERIES)
    q_side = load_side(q, batch, head, query, queries, D, PADDED_D, CHUNK, UNIT, True)
    inputs = k, v, mask
    at = batch, head, query, keys
    best = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    weighted = tl.zeros([QUERIES, PADDED_E], tl.float32)
    full, end = key_ranges(start, keys, mask, QUERIES, KEYS, CAUSAL)
    for first in range(0, full, KEYS):
        weighted, total, best = _forward_block(
            weighted,
            total,
            best,
            first,
            q_side,
            inputs,
            at,
            scale,
            D,
            E,
            PADDED_D,
            PADDED_E,
            CAUSAL,
            PRECISION,
            QUERIES,
            KEYS,
            CHUNK,
            UNIT,
            False,
        )
    for first in range(full, end, KEYS):
        weighted, total, best = _forward_block(
            weighted,
            total,
            best,
            first,
            q_side,
            inputs,
            at,
            scale,
            D,
            E,
            PADDED_D,
            PADDED_E,
            CAUSAL,
            PRECISION,
            QUERIES,
            KEYS,
            CHUNK,
            UNIT,
            True,
        )
    # one division at the end; a row without keys has a total of 0 and an output of 0
    weighted /= tl.where(total == 0.0, 1.0, total)[:, None]
    store(of_head(out, batch, head, UNIT), weighted, query, queries, E, PADDED_E)
    store_row(lse, (best + tl.log2(total)) * LN_2, batch, head, query, queries)


def attention(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """See `edmfast.ops.attention.reference.attention`."""
    out = q.new_empty(*q.shape[:3], v.shape[3])
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    launch(forward_kernel, (q, k, v, key_mask, out, lse), q, v, scale, causal)
    return out, lse
