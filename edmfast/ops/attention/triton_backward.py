"""Backward attention by Triton: one pass over blocks of queries for dQ, one over blocks of keys for dK and dV.

One program sums each output in one order, without atomics, so the bits are the same every time. The first pass
stores the row sums δ = rowsum(dO ∘ O) for the second.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from edmfast.ops.attention.triton_launch import launch
from edmfast.ops.attention.triton_tiles import (
    LOG2_E,
    accumulate,
    key_ranges,
    load_lse,
    load_row,
    load_side,
    of_head,
    place,
    probability_tile,
    product,
    query_ranges,
    row_dots,
    store,
    store_row,
)


@triton.jit
def _query_gradient_block(
    total,
    first,
    sides,
    rows,
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
    """Return the total with the term of the block of keys from `first`."""
    k, v, mask = inputs
    q_side, grad_side = sides
    row_lse, row_delta = rows
    batch, head, query, keys = at
    zero = tl.zeros([QUERIES, KEYS], tl.float32)
    key = first + tl.arange(0, KEYS)
    k_side = load_side(k, batch, head, key, keys, D, PADDED_D, CHUNK, UNIT, CHECKED)
    v_side = load_side(v, batch, head, key, keys, E, PADDED_E, CHUNK, UNIT, CHECKED)
    where = batch, query[:, None], key[None, :], keys, mask
    p = probability_tile(
        zero,
        q_side,
        k_side,
        row_lse[:, None],
        where,
        scale * LOG2_E,
        D,
        PADDED_D,
        CHUNK,
        PRECISION,
        CAUSAL,
        CHECKED,
    )
    dp = product(zero, grad_side, v_side, E, PADDED_E, CHUNK, PRECISION)
    ds = p * (dp - row_delta[:, None])
    return accumulate(total, ds, k_side, D, PADDED_D, CHUNK, PRECISION)


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def query_gradient_kernel(
    grad,
    q,
    k,
    v,
    out,
    lse,
    mask,
    dq,
    delta,
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
    """Write dq like q and delta float32 [B, H, L]."""
    batch, head, start = place(queries, heads, QUERIES, CAUSAL)
    query = start + tl.arange(0, QUERIES)
    q_side = load_side(q, batch, head, query, queries, D, PADDED_D, CHUNK, UNIT, True)
    grad_side = load_side(grad, batch, head, query, queries, E, PADDED_E, CHUNK, UNIT, True)
    grad_head, out_head = of_head(grad, batch, head, UNIT), of_head(out, batch, head, UNIT)
    row_delta = row_dots(grad_head, out_head, query, queries, E, PADDED_E)
    # the pass over blocks of keys reads these sums
    store_row(delta, row_delta, batch, head, query, queries)
    row_lse = load_lse(lse, batch, head, query, queries, True)
    sides = q_side, grad_side
    rows = row_lse, row_delta
    inputs = k, v, mask
    at = batch, head, query, keys
    total = tl.zeros([QUERIES, PADDED_D], tl.float32)
    full, end = key_ranges(start, keys, mask, QUERIES, KEYS, CAUSAL)
    for first in range(0, full, KEYS):
        total = _query_gradient_block(
            total,
            first,
            sides,
            rows,
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
        total = _query_gradient_block(
            total,
            first,
            sides,
            rows,
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
    # the scale is a factor of the whole sum, so it is applied once
    store(of_head(dq, batch, head, UNIT), total * scale, query, queries, D, PADDED_D)


@triton.jit
def _key_gradients_block(
    dk_tile,
    dv_tile,
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
    """Return (dk_tile, dv_tile) with the terms of the block of queries from `first`."""
    grad, q, lse, delta, mask = inputs
    k_side, v_side = sides
    batch, head, key, queries, keys = at
    zero = tl.zeros([KEYS, QUERIES], tl.float32)
    query = first + tl.arange(0, QUERIES)
    q_side = load_side(q, batch, head, query, queries, D, PADDED_D, CHUNK, UNIT, CHECKED)
    grad_side = load_side(grad, batch, head, query, queries, E, PADDED_E, CHUNK, UNIT, CHECKED)
    row_lse = load_lse(lse, batch, head, query, queries, CHECKED)
    row_delta = load_row(delta, batch, head, query, queries, CHECKED)
    where = batch, query[None, :], key[:, None], keys, mask
    p = probability_tile(
        zero,
        k_side,
        q_side,
        row_lse[None, :],
        where,
        scale * LOG2_E,
        D,
        PADDED_D,
        CHUNK,
        PRECISION,
        CAUSAL,
        CHECKED,
    )
    dv_tile = accumulate(dv_tile, p, grad_side, E, PADDED_E, CHUNK, PRECISION)
    dp = product(zero, v_side, grad_side, E, PADDED_E, CHUNK, PRECISION)
    ds = p * (dp - row_delta[None, :])
    dk_tile = accumulate(dk_tile, ds, q_side, D, PADDED_D, CHUNK, PRECISION)
    return dk_tile, dv_tile


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def key_gradients_kernel(
    grad,
    q,
    k,
    v,
    lse,
    mask,
    delta,
    dk,
    dv,
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
    """Write dk like k and dv like v. Tiles of scores are transposed here: keys by queries."""
    batch, head, start = place(keys, heads, KEYS, False)
    key = start + tl.arange(0, KEYS)
    k_side = load_side(k, batch, head, key, keys, D, PADDED_D, CHUNK, UNIT, True)
    v_side = load_side(v, batch, head, key, keys, E, PADDED_E, CHUNK, UNIT, True)
    sides = k_side, v_side
    inputs = grad, q, lse, delta, mask
    at = batch, head, key, queries, keys
    dk_tile = tl.zeros([KEYS, PADDED_D], tl.float32)
    dv_tile = tl.zeros([KEYS, PADDED_E], tl.float32)
    first, begin, end, last = query_ranges(start, queries, keys, mask, QUERIES, KEYS, CAUSAL)
    for index in range(begin, end, QUERIES):
        dk_tile, dv_tile = _key_gradients_block(
            dk_tile,
            dv_tile,
            index,
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
    for index in range(first, last - end + begin, QUERIES):
        # the blocks that were summed above are skipped
        index += tl.where(index < begin, 0, end - begin)
        dk_tile, dv_tile = _key_gradients_block(
            dk_tile,
            dv_tile,
            index,
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
    # the scale is a factor of the whole sum, so it is applied once
    store(of_head(dk, batch, head, UNIT), dk_tile * scale, key, keys, D, PADDED_D)
    store(of_head(dv, batch, head, UNIT), dv_tile, key, keys, E, PADDED_E)


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
    dq, dk, dv = (tensor.new_empty(tensor.shape) for tensor in (q, k, v))
    # row sums are float32 for every dtype of the operands
    delta = q.new_empty(q.shape[:3], dtype=torch.float32)
    first = (grad, q, k, v, out, lse, key_mask, dq, delta)
    # one pass goes by queries and one by keys, so that one program sums each output, without atomics
    launch(query_gradient_kernel, first, q, v, scale, causal)
    second = (grad, q, k, v, lse, key_mask, delta, dk, dv)
    launch(key_gradients_kernel, second, q, v, scale, causal)
    return dq, dk, dv
