"""The derivative of energies and fields of residual perceptrons, see `edmfast.reference.mlp_potential`.

A program takes a block of rows through one model again, with their derivatives along a v, and the two cotangents
back. It writes for every layer what the gradient of its weights is a product of, tangents and primals one under
the other; the slopes wait in the same place, which the program reads again while it is in the cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from edmfast.kernels._mlp_tiles import numbers, place, row_sums, shifted, sigmoid, times, vector


@triton.jit
def _keep(pointer, upper, lower, at, half, inside):
    """A pair of tiles, `half` apart."""
    tl.store(pointer + at, upper.to(pointer.dtype.element_ty), mask=inside)
    tl.store(pointer + half + at, lower.to(pointer.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["batch"])
def backward_kernel(
    grad_energy,
    grad_field,
    x,
    coefficients,
    shifts,
    entry,
    entry_bias,
    layers,
    exit,
    exit_bias,
    to_x,
    to_numbers,
    entry_left,
    entry_right,
    left,
    right,
    exit_left,
    batch,
    D: tl.constexpr,
    W: tl.constexpr,
    DEPTH: tl.constexpr,
    SHARED_NUMBERS: tl.constexpr,
    SHARED_SHIFTS: tl.constexpr,
    PADDED_D: tl.constexpr,
    PADDED_W: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Pairs [K, 2, B, columns] of the first and last layer and [K, layers, 2, B, W]: entry (g_0; m_0) and
    (y'; y), left (p_l; q_l), right (h'_l; h_l) with one layer more, exit (u; n). Without weights only left is
    given, as a place to wait in; without inputs neither to_x [K, B, D] nor to_numbers [K, B, 4]."""
    model = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c, w, a, b = numbers(coefficients, model, row, batch, SHARED_NUMBERS)
    at, inside = place(row, batch, D, PADDED_D)
    wide, there = place(row, batch, W, PADDED_W)
    state_half, half = batch * D, batch * W
    own = model * state_half + at
    y = c * tl.load(x + at, mask=inside, other=0.0)
    v = tl.load(grad_field + own, mask=inside, other=0.0)
    e = tl.load(grad_energy + model * batch + row, mask=row < batch, other=0.0)[:, None]
    first, last = entry + model * W * D, exit + model * W * D
    h = times(y, first, 1, D, D, W, PADDED_D, PADDED_W, PARTS, PRECISION)
    h += vector(entry_bias + model * W, W, PADDED_W)
    along = times(a * v, first, 1, D, D, W, PADDED_D, PADDED_W, PARTS, PRECISION)
    for layer in range(DEPTH):
        place_of = model * DEPTH + layer
        if right is not None:
            _keep(right + 2 * half * (place_of + model), along, h, wide, half, there)
        matrix = layers + place_of * W * W
        z = times(h, matrix, 1, W, W, W, PADDED_W, PADDED_W, PARTS, PRECISION)
        z = shifted(z, shifts, model, layer, row, batch, W, DEPTH, SHARED_SHIFTS, PADDED_W)
        step = times(along, matrix, 1, W, W, W, PADDED_W, PADDED_W, PARTS, PRECISION)
        s = sigmoid(z)
        rest = s * (1.0 - s)
        slope = s + z * rest
        h += z * s
        along += slope * step
        bent = rest * (2.0 + z * (1.0 - 2.0 * s)) * step
        _keep(left + 2 * half * place_of, slope, bent, wide, half, there)
    n = w * (a * v - e * y)
    if right is not None:
        _keep(right + 2 * half * (model * (DEPTH + 1) + DEPTH), along, h, wide, half, there)
        _keep(exit_left + model * 2 * state_half, w * y, n, at, state_half, inside)
        _keep(entry_right + model * 2 * state_half, a * v, y, at, state_half, inside)
    # what threads have written other threads of the program read
    tl.debug_barrier()
    g = times(w * y, last, W, 1, D, W, PADDED_D, PADDED_W, PARTS, PRECISION)
    m = times(n, last, W, 1, D, W, PADDED_D, PADDED_W, PARTS, PRECISION)
    for back in range(DEPTH):
        place_of = model * DEPTH + (DEPTH - 1 - back)
        pair = left + 2 * half * place_of + wide
        slope = tl.load(pair, mask=there, other=0.0).to(tl.float32)
        bent = tl.load(pair + half, mask=there, other=0.0).to(tl.float32)
        p, q = slope * g, slope * m + bent * g
        if right is not None:
            _keep(left + 2 * half * place_of, p, q, wide, half, there)
        matrix = layers + place_of * W * W
        g += times(p, matrix, W, 1, W, W, PADDED_W, PADDED_W, PARTS, PRECISION)
        m += times(q, matrix, W, 1, W, W, PADDED_W, PADDED_W, PARTS, PRECISION)
    if right is not None:
        _keep(entry_left + model * 2 * half, g, m, wide, half, there)
    if to_x is not None:
        out = times(h, last, 1, W, W, D, PADDED_W, PADDED_D, 1, PRECISION)
        out += vector(exit_bias + model * D, D, PADDED_D)
        moved = times(along, last, 1, W, W, D, PADDED_W, PADDED_D, 1, PRECISION)
        rest = times(m, first, D, 1, W, D, PADDED_W, PADDED_D, 1, PRECISION)
        to_y = e * y + b * v + w * (moved - e * out) + rest
        tl.store(to_x + own, c * to_y, mask=inside)
        pulled = times(g, first, D, 1, W, D, PADDED_W, PADDED_D, 1, PRECISION)
        four = to_numbers + 4 * (model * batch + row)
        exists = row < batch
        states = tl.load(x + at, mask=inside, other=0.0)
        tl.store(four, row_sums(states, to_y).to(tl.float32), mask=exists)
        to_w = row_sums(a * v - e * y, out) + row_sums(moved, y)
        tl.store(four + 1, to_w.to(tl.float32), mask=exists)
        tl.store(four + 2, row_sums(v, w * out + pulled).to(tl.float32), mask=exists)
        tl.store(four + 3, row_sums(v, y).to(tl.float32), mask=exists)
