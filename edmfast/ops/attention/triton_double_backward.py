"""Double backward of attention by Triton, with the symbols of `edmfast.ops.attention.reference`.

Three passes each recompute their tiles of P, dP, T and R:

1. over blocks of queries, for the row sums δ, t and g (`triton_row_sums`);
2. over blocks of queries, for gQ and the cotangent of dO;
3. over blocks of keys, for gK and gV.

With D = dP - δ the formula is dS₂ = P ∘ (D ∘ (T - t) + R - g). Here g is the row sum of
P ∘ (D ∘ (T - t) + R). It differs from the reference's g by δ t, as do the other terms in the brackets, so dS₂
agrees.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from edmfast.ops.attention.triton_launch import launch
from edmfast.ops.attention.triton_row_sums import row_sums_kernel
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
    store,
)


@triton.jit
def _query_second_block(
    gq_tile,
    g_grad_tile,
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
    """Return (gq_tile, g_grad_tile) with the terms of the block of keys from `first`."""
    b, c, k, v, mask = inputs
    q_side, a_side, grad_side = sides
    row_lse, row_delta, row_t, row_g = rows
    batch, head, query, keys = at
    zero = tl.zeros([QUERIES, KEYS], tl.float32)
    key = first + tl.arange(0, KEYS)
    k_side = load_side(k, batch, head, key, keys, D, PADDED_D, CHUNK, UNIT, CHECKED)
    b_side = load_side(b, batch, head, key, keys, D, PADDED_D, CHUNK, UNIT, CHECKED)
    v_side = load_side(v, batch, head, key, keys, E, PADDED_E, CHUNK, UNIT, CHECKED)
    c_side = load_side(c, batch, head, key, keys, E, PADDED_E, CHUNK, UNIT, CHECKED)
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
    g_grad_tile = accumulate(g_grad_tile, p, c_side, E, PADDED_E, CHUNK, PRECISION)
    tangent = product(zero, a_side, k_side, D, PADDED_D, CHUNK, PRECISION)
    tangent = product(tangent, q_side, b_side, D, PADDED_D, CHUNK, PRECISION)
    tangent = tangent * scale - row_t[:, None]
    g_grad_tile = accumulate(g_grad_tile, p * tangent, v_side, E, PADDED_E, CHUNK, PRECISION)
    off = product(zero, grad_side, v_side, E, PADDED_E, CHUNK, PRECISION)
    # only D = dP - δ is needed of dP
    off -= row_delta[:, None]
    ds = p * off
    gq_tile = accumulate(gq_tile, ds, b_side, D, PADDED_D, CHUNK, PRECISION)
    # this product comes before r, so that the registers of both factors are free again
    ds2 = ds * tangent
    r = product(zero, grad_side, c_side, E, PADDED_E, CHUNK, PRECISION)
    # g and the terms before it differ from the reference's by the same δ t, so ds2 agrees
    ds2 += p * (r - row_g[:, None])
    gq_tile = accumulate(gq_tile, ds2, k_side, D, PADDED_D, CHUNK, PRECISION)
    return gq_tile, g_grad_tile


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def query_second_kernel(
    a,
    b,
    c,
    grad,
    q,
    k,
    v,
    lse,
    mask,
    delta,
    t,
    g,
    g_grad,
    gq,
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
    """Write g_grad like grad and gq like q."""
    batch, head, start = place(queries, heads, QUERIES, CAUSAL)
    query = start + tl.arange(0, QUERIES)
    q_side = load_side(q, batch, head, query, queries, D, PADDED_D, CHUNK, UNIT, True)
    a_side = load_side(a, batch, head, query, queries, D, PADDED_D, CHUNK, UNIT, True)
    grad_side = load_side(grad, batch, head, query, queries, E, PADDED_E, CHUNK, UNIT, True)
    row_lse = load_lse(lse, batch, head, query, queries, True)
    row_delta = load_row(delta, batch, head, query, queries, True)
    row_t = load_row(t, batch, head, query, queries, True)
    row_g = load_row(g, batch, head, query, queries, True)
    sides = q_side, a_side, grad_side
    rows = row_lse, row_delta, row_t, row_g
    inputs = b, c, k, v, mask
    at = batch, head, query, keys
    gq_tile = tl.zeros([QUERIES, PADDED_D], tl.float32)
    g_grad_tile = tl.zeros([QUERIES, PADDED_E], tl.float32)
    full, end = key_ranges(start, keys, mask, QUERIES, KEYS, CAUSAL)
    for first in range(0, full, KEYS):
        gq_tile, g_grad_tile = _query_second_block(
            gq_tile,
            g_grad_tile,
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
        gq_tile, g_grad_tile = _query_second_block(
            gq_tile,
            g_grad_tile,
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
    store(of_head(gq, batch, head, UNIT), gq_tile * scale, query, queries, D, PADDED_D)
    store(of_head(g_grad, batch, head, UNIT), g_grad_tile, query, queries, E, PADDED_E)


@triton.jit
def _key_second_block(
    gk_tile,
    gv_tile,
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
    """Return (gk_tile, gv_tile) with the terms of the block of queries from `first`."""
    a, grad, q, lse, delta, t, g, mask = inputs
    k_side, b_side, v_side, c_side = sides
    batch, head, key, queries, keys = at
    zero = tl.zeros([KEYS, QUERIES], tl.float32)
    query = first + tl.arange(0, QUERIES)
    q_side = load_side(q, batch, head, query, queries, D, PADDED_D, CHUNK, UNIT, CHECKED)
    a_side = load_side(a, batch, head, query, queries, D, PADDED_D, CHUNK, UNIT, CHECKED)
    grad_side = load_side(grad, batch, head, query, queries, E, PADDED_E, CHUNK, UNIT, CHECKED)
    row_lse = load_lse(lse, batch, head, query, queries, CHECKED)
    row_delta = load_row(delta, batch, head, query, queries, CHECKED)
    row_t = load_row(t, batch, head, query, queries, CHECKED)
    row_g = load_row(g, batch, head, query, queries, CHECKED)
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
    tangent = product(zero, k_side, a_side, D, PADDED_D, CHUNK, PRECISION)
    tangent = product(tangent, b_side, q_side, D, PADDED_D, CHUNK, PRECISION)
    tangent = tangent * scale - row_t[None, :]
    gv_tile = accumulate(gv_tile, p * tangent, grad_side, E, PADDED_E, CHUNK, PRECISION)
    off = product(zero, v_side, grad_side, E, PADDED_E, CHUNK, PRECISION)
    off -= row_delta[None, :]
    ds = p * off
    gk_tile = accumulate(gk_tile, ds, a_side, D, PADDED_D, CHUNK, PRECISION)
    ds2 = ds * tangent
    r = product(zero, c_side, grad_side, E, PADDED_E, CHUNK, PRECISION)
    ds2 += p * (r - row_g[None, :])
    gk_tile = accumulate(gk_tile, ds2, q_side, D, PADDED_D, CHUNK, PRECISION)
    return gk_tile, gv_tile


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def key_second_kernel(
    a,
    b,
    c,
    grad,
    q,
    k,
    v,
    lse,
    mask,
    delta,
    t,
    g,
    gk,
    gv,
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
    """Write gk like k and gv like v. Tiles of scores are transposed here: keys by queries."""
    batch, head, start = place(keys, heads, KEYS, False)
    key = start + tl.arange(0, KEYS)
    k_side = load_side(k, batch, head, key, keys, D, PADDED_D, CHUNK, UNIT, True)
    b_side = load_side(b, batch, head, key, keys, D, PADDED_D, CHUNK, UNIT, True)
    v_side = load_side(v, batch, head, key, keys, E, PADDED_E, CHUNK, UNIT, True)
    c_side = load_side(c, batch, head, key, keys, E, PADDED_E, CHUNK, UNIT, True)
    sides = k_side, b_side, v_side, c_side
    inputs = a, grad, q, lse, delta, t, g, mask
    at = batch, head, key, queries, keys
    gk_tile = tl.zeros([KEYS, PADDED_D], tl.float32)
    gv_tile = tl.zeros([KEYS, PADDED_E], tl.float32)
    first, begin, end, last = query_ranges(start, queries, keys, mask, QUERIES, KEYS, CAUSAL)
    for index in range(begin, end, QUERIES):
        gk_tile, gv_tile = _key_second_block(
            gk_tile,
            gv_tile,
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
        gk_tile, gv_tile = _key_second_block(
            gk_tile,
            gv_tile,
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
    store(of_head(gk, batch, head, UNIT), gk_tile * scale, key, keys, D, PADDED_D)
    store(of_head(gv, batch, head, UNIT), gv_tile, key, keys, E, PADDED_E)


def attention_double_backward(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    key_mask: Tensor | None,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `edmfast.ops.attention.reference.attention_double_backward`."""
    g_grad, gq, gk, gv = (tensor.new_empty(tensor.shape) for tensor in (grad, q, k, v))
    # row sums are float32 for every dtype of the operands
    sums = [q.new_empty(q.shape[:3], dtype=torch.float32) for _ in range(3)]
    inputs = (a, b, c, grad, q, k, v)
    # the row sums of a query need all its keys, so both other passes wait for them
    launch(row_sums_kernel, (*inputs, out, lse, key_mask, *sums), q, v, scale, causal)
    rest = (*inputs, lse, key_mask, *sums)
    launch(query_second_kernel, (*rest, g_grad, gq), q, v, scale, causal)
    launch(key_second_kernel, (*rest, gk, gv), q, v, scale, causal)
    return g_grad, gq, gk, gv
