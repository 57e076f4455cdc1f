"""Double backward of attention by Triton, in the notation of `edmfast.reference.attention`.

Three passes: over blocks of queries for the row sums δ, t and g; over blocks of queries for gQ and the
cotangent of dO; over blocks of keys for gK and gV. Each recomputes its tiles of P, dP, T and R. With
D = dP - δ, dS₂ = P ∘ (D ∘ (T - t) + R - g), g = Σ P ∘ (D ∘ (T - t) + R) = Σ P ∘ (D ∘ T + R) - t Σ P ∘ D:
a constant of the row in the brackets drops out, and the sums need one look at every key. Σ P ∘ D is 0
but for the rounding of O, which g has to share.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from edmfast.kernels._attention_blocks import launch
from edmfast.kernels._attention_tiles import (
    LOG2E,
    accumulate,
    attended,
    load,
    load_lse,
    load_row,
    place,
    probabilities,
    product,
    store,
    store_row,
    strided,
)


@triton.jit
def row_sums_kernel(
    a,
    b,
    c,
    grad,
    q,
    k,
    v,
    out,
    lse,
    mask,
    delta,
    t,
    g,
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
):
    """delta, t, g float32 [B, H, L]."""
    batch, head, start = place(queries, heads, QUERIES)
    query = start + tl.arange(0, QUERIES)
    q_tile = load(q, batch, head, query, queries, D, PADDED_D)
    a_tile = load(a, batch, head, query, queries, D, PADDED_D)
    grad_tile = load(grad, batch, head, query, queries, E, PADDED_E)
    out_tile = load(out, batch, head, query, queries, E, PADDED_E)
    row_delta = tl.sum(grad_tile.to(tl.float32) * out_tile.to(tl.float32), axis=1)
    row_lse = load_lse(lse, batch, head, query, queries)
    sum_t = tl.zeros([QUERIES], tl.float32)
    sum_off = tl.zeros([QUERIES], tl.float32)
    sum_g = tl.zeros([QUERIES], tl.float32)
    end = keys
    if CAUSAL:
        end = tl.minimum(keys, start + QUERIES)
    for first in range(0, end, KEYS):
        key = first + tl.arange(0, KEYS)
        k_tile = load(k, batch, head, key, keys, D, PADDED_D)
        counts = attended(mask, batch, query[:, None], key[None, :], queries, keys, CAUSAL)
        scores = product(q_tile, k_tile, PRECISION) * (scale * LOG2E)
        p = probabilities(scores, row_lse[:, None], counts)
        tangent = product(a_tile, k_tile, PRECISION)
        b_tile = load(b, batch, head, key, keys, D, PADDED_D)
        tangent = (tangent + product(q_tile, b_tile, PRECISION)) * scale
        sum_t += tl.sum(p * tangent, axis=1)
        v_tile = load(v, batch, head, key, keys, E, PADDED_E)
        off = product(grad_tile, v_tile, PRECISION) - row_delta[:, None]
        sum_off += tl.sum(p * off, axis=1)
        c_tile = load(c, batch, head, key, keys, E, PADDED_E)
        sum_g += tl.sum(p * (off * tangent + product(grad_tile, c_tile, PRECISION)), axis=1)
    store_row(delta, row_delta, batch, head, query, queries)
    store_row(t, sum_t, batch, head, query, queries)
    store_row(g, sum_g - sum_t * sum_off, batch, head, query, queries)


@triton.jit
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
):
    """g_grad like grad, gq like q."""
    batch, head, start = place(queries, heads, QUERIES)
    query = start + tl.arange(0, QUERIES)
    q_tile = load(q, batch, head, query, queries, D, PADDED_D)
    a_tile = load(a, batch, head, query, queries, D, PADDED_D)
    grad_tile = load(grad, batch, head, query, queries, E, PADDED_E)
    row_lse = load_lse(lse, batch, head, query, queries)
    row_delta = load_row(delta, batch, head, query, queries)
    row_t = load_row(t, batch, head, query, queries)
    row_g = load_row(g, batch, head, query, queries)
    gq_tile = tl.zeros([QUERIES, PADDED_D], tl.float32)
    g_grad_tile = tl.zeros([QUERIES, PADDED_E], tl.float32)
    end = keys
    if CAUSAL:
        end = tl.minimum(keys, start + QUERIES)
    for first in range(0, end, KEYS):
        key = first + tl.arange(0, KEYS)
        k_tile = load(k, batch, head, key, keys, D, PADDED_D)
        b_tile = load(b, batch, head, key, keys, D, PADDED_D)
        v_tile = load(v, batch, head, key, keys, E, PADDED_E)
        c_tile = load(c, batch, head, key, keys, E, PADDED_E)
        counts = attended(mask, batch, query[:, None], key[None, :], queries, keys, CAUSAL)
        scores = product(q_tile, k_tile, PRECISION) * (scale * LOG2E)
        p = probabilities(scores, row_lse[:, None], counts)
        g_grad_tile = accumulate(g_grad_tile, p, c_tile, PRECISION)
        tangent = product(a_tile, k_tile, PRECISION) + product(q_tile, b_tile, PRECISION)
        tangent = tangent * scale - row_t[:, None]
        g_grad_tile = accumulate(g_grad_tile, p * tangent, v_tile, PRECISION)
        off = product(grad_tile, v_tile, PRECISION) - row_delta[:, None]
        gq_tile = accumulate(gq_tile, p * off, b_tile, PRECISION)
        ds2 = p * (off * tangent + (product(grad_tile, c_tile, PRECISION) - row_g[:, None]))
        gq_tile = accumulate(gq_tile, ds2, k_tile, PRECISION)
    store(gq, gq_tile * scale, batch, head, query, queries, D, PADDED_D)
    store(g_grad, g_grad_tile, batch, head, query, queries, E, PADDED_E)


@triton.jit
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
):
    """gk like k, gv like v. Tiles of scores are transposed: keys by queries."""
    batch, head, start = place(keys, heads, KEYS)
    key = start + tl.arange(0, KEYS)
    k_tile = load(k, batch, head, key, keys, D, PADDED_D)
    b_tile = load(b, batch, head, key, keys, D, PADDED_D)
    v_tile = load(v, batch, head, key, keys, E, PADDED_E)
    c_tile = load(c, batch, head, key, keys, E, PADDED_E)
    gk_tile = tl.zeros([KEYS, PADDED_D], tl.float32)
    gv_tile = tl.zeros([KEYS, PADDED_E], tl.float32)
    begin = 0
    if CAUSAL:
        begin = start // QUERIES * QUERIES
    for first in range(begin, queries, QUERIES):
        query = first + tl.arange(0, QUERIES)
        q_tile = load(q, batch, head, query, queries, D, PADDED_D)
        a_tile = load(a, batch, head, query, queries, D, PADDED_D)
        grad_tile = load(grad, batch, head, query, queries, E, PADDED_E)
        row_lse = load_lse(lse, batch, head, query, queries)
        row_delta = load_row(delta, batch, head, query, queries)
        row_t = load_row(t, batch, head, query, queries)
        row_g = load_row(g, batch, head, query, queries)
        counts = attended(mask, batch, query[None, :], key[:, None], queries, keys, CAUSAL)
        scores = product(k_tile, q_tile, PRECISION) * (scale * LOG2E)
        p = probabilities(scores, row_lse[None, :], counts)
        tangent = product(k_tile, a_tile, PRECISION) + product(b_tile, q_tile, PRECISION)
        tangent = tangent * scale - row_t[None, :]
        gv_tile = accumulate(gv_tile, p * tangent, grad_tile, PRECISION)
        off = product(v_tile, grad_tile, PRECISION) - row_delta[None, :]
        gk_tile = accumulate(gk_tile, p * off, a_tile, PRECISION)
        ds2 = p * (off * tangent + (product(c_tile, grad_tile, PRECISION) - row_g[None, :]))
        gk_tile = accumulate(gk_tile, ds2, q_tile, PRECISION)
    store(gk, gk_tile * scale, batch, head, key, keys, D, PADDED_D)
    store(gv, gv_tile, batch, head, key, keys, E, PADDED_E)


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
    """See `edmfast.reference.attention.attention_double_backward`."""
    g_grad, gq, gk, gv = (tensor.new_empty(tensor.shape) for tensor in (grad, q, k, v))
    sums = [strided(q.new_empty(q.shape[:3], dtype=torch.float32)) for _ in range(3)]
    inputs = [strided(tensor) for tensor in (a, b, c, grad, q, k, v)]
    mask = None if key_mask is None else strided(key_mask)
    launch(row_sums_kernel, q, v, (*inputs, strided(out), strided(lse), mask, *sums), scale, causal)
    rest = (*inputs, strided(lse), mask, *sums)
    launch(query_second_kernel, q, v, (*rest, strided(g_grad), strided(gq)), scale, causal)
    launch(key_second_kernel, q, v, (*rest, strided(gk), strided(gv)), scale, causal)
    return g_grad, gq, gk, gv
