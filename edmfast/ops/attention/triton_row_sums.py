"""The row sums that the double backward of attention starts from, with one program for each block of queries.

δ = rowsum(dO ∘ O), t = Σ P ∘ T and, with D = dP - δ, g = Σ P ∘ (D ∘ (T - t) + R) = Σ P ∘ (D ∘ T + R) - t Σ P ∘ D.
The last form needs only one pass over the keys. Σ P ∘ D is zero up to the rounding of O, and it has to stay in g,
because the sums that use g have the same rounding. The formula also holds with dP in the place of D, but its terms
are larger. The symbols are those of `edmfast.ops.attention.reference`.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl

from edmfast.ops.attention.triton_tiles import (
    LOG2_E,
    key_ranges,
    load_lse,
    load_side,
    of_head,
    place,
    probability_tile,
    product,
    row_dots,
    store_row,
)


@triton.jit
def _row_sums_block(
    sum_t,
    sum_off,
    sum_g,
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
    """Return (sum_t, sum_off, sum_g) with the terms of the block of keys from `first`."""
    b, c, k, v, mask = inputs
    q_side, a_side, grad_side = sides
    row_lse, row_delta = rows
    batch, head, query, keys = at
    zero = tl.zeros([QUERIES, KEYS], tl.float32)
    key = first + tl.arange(0, KEYS)
    k_side = load_side(k, batch, head, key, keys, D, PADDED_D, CHUNK, UNIT, CHECKED)
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
    tangent = product(zero, a_side, k_side, D, PADDED_D, CHUNK, PRECISION)
    b_side = load_side(b, batch, head, key, keys, D, PADDED_D, CHUNK, UNIT, CHECKED)
    tangent = product(tangent, q_side, b_side, D, PADDED_D, CHUNK, PRECISION) * scale
    sum_t += tl.sum(p * tangent, axis=1)
    v_side = load_side(v, batch, head, key, keys, E, PADDED_E, CHUNK, UNIT, CHECKED)
    off = product(zero, grad_side, v_side, E, PADDED_E, CHUNK, PRECISION)
    off -= row_delta[:, None]
    # this sum is zero up to the rounding of out, which other sums that use g have as well
    ds = p * off
    sum_off += tl.sum(ds, axis=1)
    # this product comes before r, so that the registers of both factors are free again
    terms = ds * tangent
    c_side = load_side(c, batch, head, key, keys, E, PADDED_E, CHUNK, UNIT, CHECKED)
    r = product(zero, grad_side, c_side, E, PADDED_E, CHUNK, PRECISION)
    sum_g += tl.sum(terms + p * r, axis=1)
    return sum_t, sum_off, sum_g


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
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
    CHUNK: tl.constexpr,
    UNIT: tl.constexpr,
):
    """Write delta, t and g, float32 [B, H, L]."""
    batch, head, start = place(queries, heads, QUERIES, CAUSAL)
    query = start + tl.arange(0, QUERIES)
    q_side = load_side(q, batch, head, query, queries, D, PADDED_D, CHUNK, UNIT, True)
    a_side = load_side(a, batch, head, query, queries, D, PADDED_D, CHUNK, UNIT, True)
    grad_side = load_side(grad, batch, head, query, queries, E, PADDED_E, CHUNK, UNIT, True)
    grad_head, out_head = of_head(grad, batch, head, UNIT), of_head(out, batch, head, UNIT)
    row_delta = row_dots(grad_head, out_head, query, queries, E, PADDED_E)
    row_lse = load_lse(lse, batch, head, query, queries, True)
    sides = q_side, a_side, grad_side
    rows = row_lse, row_delta
    inputs = b, c, k, v, mask
    at = batch, head, query, keys
    sum_t = tl.zeros([QUERIES], tl.float32)
    sum_off = tl.zeros([QUERIES], tl.float32)
    sum_g = tl.zeros([QUERIES], tl.float32)
    full, end = key_ranges(start, keys, mask, QUERIES, KEYS, CAUSAL)
    for first in range(0, full, KEYS):
        sum_t, sum_off, sum_g = _row_sums_block(
            sum_t,
            sum_off,
            sum_g,
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
        sum_t, sum_off, sum_g = _row_sums_block(
            sum_t,
            sum_off,
            sum_g,
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
    store_row(delta, row_delta, batch, head, query, queries)
    store_row(t, sum_t, batch, head, query, queries)
    # g is complete only now, because t is known after the last key
    store_row(g, sum_g - sum_t * sum_off, batch, head, query, queries)
