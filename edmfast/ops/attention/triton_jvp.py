"""Attention in forward mode by Triton: each program takes one block of queries through all keys, once.

As in the forward pass, sums are relative to the highest score so far. With p the exponentials of the scores and
T = c (Q' Kᵀ + Q K'ᵀ) their tangent, the program sums p, p V, p ∘ T and (p ∘ T) V + p V' in one pass. At the end
O' = (Σ (p ∘ T) V + p V')/Σ p - (Σ p ∘ T/Σ p) O. A block of keys takes six products of tiles, where the forward
pass takes two; absent tangents save theirs. The tangents are read as often as q, k and v.
Source: Dao et al. 2022, arXiv 2205.14135 (the pass over keys). The tangent is our own.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from edmfast.ops.attention.triton_launch import launch
from edmfast.ops.attention.triton_tiles import (
    LOG2_E,
    accumulate,
    attended,
    key_ranges,
    load_side,
    of_head,
    place,
    product,
    store,
)


@triton.jit
def _jvp_block(
    sums,
    rows,
    first,
    sides,
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
    """Return (sums, rows) with the terms of the block of keys from `first`.

    sums: Σ p V and Σ (p ∘ T) V + p V'. rows: the highest scores, Σ p and Σ p ∘ T.
    """
    weighted, change = sums
    best, total, turned = rows
    q_side, along = sides
    k_tangent, v_tangent, k, v, mask = inputs
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
    weighted *= shrink[:, None]
    change *= shrink[:, None]
    v_side = load_side(v, batch, head, key, keys, E, PADDED_E, CHUNK, UNIT, CHECKED)
    weighted = accumulate(weighted, p, v_side, E, PADDED_E, CHUNK, PRECISION)
    if v_tangent is not None:
        v_along = load_side(v_tangent, batch, head, key, keys, E, PADDED_E, CHUNK, UNIT, CHECKED)
        change = accumulate(change, p, v_along, E, PADDED_E, CHUNK, PRECISION)
    if along is not None or k_tangent is not None:
        tangent = zero
        if along is not None:
            tangent = product(tangent, along, k_side, D, PADDED_D, CHUNK, PRECISION)
        if k_tangent is not None:
            k_along = load_side(
                k_tangent, batch, head, key, keys, D, PADDED_D, CHUNK, UNIT, CHECKED
            )
            tangent = product(tangent, q_side, k_along, D, PADDED_D, CHUNK, PRECISION)
        tangent = p * (tangent * scale)
        turned = turned * shrink + tl.sum(tangent, axis=1)
        change = accumulate(change, tangent, v_side, E, PADDED_E, CHUNK, PRECISION)
    return (weighted, change), (highest, total, turned)


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def jvp_kernel(
    q_tangent,
    k_tangent,
    v_tangent,
    q,
    k,
    v,
    mask,
    out,
    moved,
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
    """Write out and its tangent `moved`, both [B, H, L, E]; an absent tangent is None."""
    batch, head, start = place(queries, heads, QUERIES, CAUSAL)
    query = start + tl.arange(0, QUERIES)
    q_side = load_side(q, batch, head, query, queries, D, PADDED_D, CHUNK, UNIT, True)
    along = None
    if q_tangent is not None:
        along = load_side(q_tangent, batch, head, query, queries, D, PADDED_D, CHUNK, UNIT, True)
    sides = q_side, along
    inputs = k_tangent, v_tangent, k, v, mask
    at = batch, head, query, keys
    none = tl.zeros([QUERIES], tl.float32)
    nothing = tl.zeros([QUERIES, PADDED_E], tl.float32)
    sums = nothing, nothing
    rows = tl.full([QUERIES], float("-inf"), tl.float32), none, none
    full, end = key_ranges(start, keys, mask, QUERIES, KEYS, CAUSAL)
    for first in range(0, full, KEYS):
        sums, rows = _jvp_block(
            sums,
            rows,
            first,
            sides,
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
        sums, rows = _jvp_block(
            sums,
            rows,
            first,
            sides,
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
    weighted, change = sums
    _, total, turned = rows
    # a row without keys has a total of 0, and both of its results are 0
    total = tl.where(total == 0.0, 1.0, total)
    weighted /= total[:, None]
    change = change / total[:, None] - (turned / total)[:, None] * weighted
    store(of_head(out, batch, head, UNIT), weighted, query, queries, E, PADDED_E)
    store(of_head(moved, batch, head, UNIT), change, query, queries, E, PADDED_E)


def attention_jvp(
    q_tangent: Tensor | None,
    k_tangent: Tensor | None,
    v_tangent: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """See `edmfast.ops.attention.reference.attention_jvp`."""
    out, moved = (q.new_empty(*q.shape[:3], v.shape[3]) for _ in range(2))
    tensors = q_tangent, k_tangent, v_tangent, q, k, v, key_mask, out, moved
    launch(jvp_kernel, tensors, q, v, scale, causal)
    return out, moved
