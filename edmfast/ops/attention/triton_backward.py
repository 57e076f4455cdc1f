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
    accumulate,
    key_end,
    load_lse,
    load_row,
    load_side,
    of_head,
    place,
    probability_tile,
    product,
    query_begin,
    row_dots,
    store,
    store_row,
)


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
    batch, head, start = place(queries, heads, QUERIES)
    query = start + tl.arange(0, QUERIES)
    zero = tl.zeros([QUERIES, KEYS], tl.float32)
    q_side = load_side(q, batch, head, query, queries, D, PADDED_D, CHUNK, UNIT)
    grad_side = load_side(grad, batch, head, query, queries, E, PADDED_E, CHUNK, UNIT)
    grad_head, out_head = of_head(grad, batch, head, UNIT), of_head(out, batch, head, UNIT)
    row_delta = row_dots(grad_head, out_head, query, queries, E, PADDED_E)
    # the pass over blocks of keys reads these sums
    store_row(delta, row_delta, batch, head, query, queries)
    row_lse = load_lse(lse, batch, head, query, queries)
    total = tl.zeros([QUERIES, PADDED_D], tl.float32)
    for first in range(0, key_end(start, keys, QUERIES, CAUSAL), KEYS):
        key = first + tl.arange(0, KEYS)
        k_side = load_side(k, batch, head, key, keys, D, PADDED_D, CHUNK, UNIT)
        v_side = load_side(v, batch, head, key, keys, E, PADDED_E, CHUNK, UNIT)
        at = batch, query[:, None], key[None, :], keys, mask
        p = probability_tile(
            zero, q_side, k_side, row_lse[:, None], at, scale, D, PADDED_D, CHUNK, PRECISION, CAUSAL
        )
        dp = product(zero, grad_side, v_side, E, PADDED_E, CHUNK, PRECISION)
        ds = p * (dp - row_delta[:, None])
        total = accumulate(total, ds, k_side, D, PADDED_D, CHUNK, PRECISION)
    # the scale is a factor of the whole sum, so it is applied once
    store(of_head(dq, batch, head, UNIT), total * scale, query, queries, D, PADDED_D)


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
    batch, head, start = place(keys, heads, KEYS)
    key = start + tl.arange(0, KEYS)
    zero = tl.zeros([KEYS, QUERIES], tl.float32)
    k_side = load_side(k, batch, head, key, keys, D, PADDED_D, CHUNK, UNIT)
    v_side = load_side(v, batch, head, key, keys, E, PADDED_E, CHUNK, UNIT)
    dk_tile = tl.zeros([KEYS, PADDED_D], tl.float32)
    dv_tile = tl.zeros([KEYS, PADDED_E], tl.float32)
    for first in range(query_begin(start, QUERIES, CAUSAL), queries, QUERIES):
        query = first + tl.arange(0, QUERIES)
        q_side = load_side(q, batch, head, query, queries, D, PADDED_D, CHUNK, UNIT)
        grad_side = load_side(grad, batch, head, query, queries, E, PADDED_E, CHUNK, UNIT)
        row_lse = load_lse(lse, batch, head, query, queries)
        row_delta = load_row(delta, batch, head, query, queries)
        at = batch, query[None, :], key[:, None], keys, mask
        p = probability_tile(
            zero, k_side, q_side, row_lse[None, :], at, scale, D, PADDED_D, CHUNK, PRECISION, CAUSAL
        )
        dv_tile = accumulate(dv_tile, p, grad_side, E, PADDED_E, CHUNK, PRECISION)
        dp = product(zero, v_side, grad_side, E, PADDED_E, CHUNK, PRECISION)
        ds = p * (dp - row_delta[None, :])
        dk_tile = accumulate(dk_tile, ds, q_side, D, PADDED_D, CHUNK, PRECISION)
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
