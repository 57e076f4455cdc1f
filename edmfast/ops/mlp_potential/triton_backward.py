"""The derivative of energies and fields of residual perceptrons, see `edmfast.ops.mlp_potential.reference`.

A program takes a block of rows through one model again, together with the derivative along a v, and then takes the
two cotangents back. For every layer it writes the two sides of the product that is the gradient of the weights,
with tangents and primals one under the other. The slopes wait in the same memory, and the program reads them
again while they are in the cache.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl

from edmfast.ops.mlp_potential.triton_tiles import (
    keep,
    number,
    product,
    put,
    row_sums,
    rows_of,
    shifted,
    sigmoid,
    vector,
)


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
    scratch,
    batch,
    D: tl.constexpr,
    W: tl.constexpr,
    DEPTH: tl.constexpr,
    SHARED_NUMBERS: tl.constexpr,
    SHARED_SHIFTS: tl.constexpr,
    PADDED_D: tl.constexpr,
    PADDED_W: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write the sides of the products that are gradients of weights, and the gradients of the inputs.

    The sides are pairs [K, 2, B, columns] for the first and last layer: entry_left (g_0; m_0), entry_right (y';
    y), exit_left (u; n); and [K, layers, 2, B, W] for the others: left (p_l; q_l), and right (h'_l; h_l), which
    has one layer more. Without weights only left is passed, as memory for the slopes. Without inputs neither
    to_x [K, B, D] nor to_numbers [K, B, 4] is.
    """
    model = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * ROWS
    rest = batch - first
    entry += model * W * D
    exit += model * W * D
    layers += model * DEPTH * W * W
    states = x + first * D
    grad_field += (model * batch + first) * D
    # offsets need 64 bits: the two rows of numbers of all layers may exceed 2^31
    half, half_states = batch.to(tl.int64) * W, batch.to(tl.int64) * D
    left += 2 * half * model * DEPTH + first * W
    if right is not None:
        right += 2 * half * model * (DEPTH + 1) + first * W
        entry_left += 2 * half * model + first * W
        entry_right += 2 * half_states * model + first * D
        exit_left += 2 * half_states * model + first * D
    WIDER: tl.constexpr = PADDED_D if PADDED_D > PADDED_W else PADDED_W
    upper = scratch + (model * tl.num_programs(0) + tl.program_id(0)) * (2 * ROWS * WIDER)
    lower = upper + ROWS * WIDER
    c = number(coefficients, 0, model, first, batch, SHARED_NUMBERS, ROWS)
    w = number(coefficients, 1, model, first, batch, SHARED_NUMBERS, ROWS)
    a = number(coefficients, 2, model, first, batch, SHARED_NUMBERS, ROWS)
    e = rows_of(grad_energy + model * batch + first, 1, 1, rest, ROWS)
    y = c * rows_of(states, D, PADDED_D, rest, ROWS)
    turned = a * rows_of(grad_field, D, PADDED_D, rest, ROWS)
    n = w * (turned - e * y)
    if right is not None:
        keep(entry_right, turned, D, PADDED_D, rest, ROWS)
        keep(entry_right + half_states, y, D, PADDED_D, rest, ROWS)
        keep(exit_left, w * y, D, PADDED_D, rest, ROWS)
        keep(exit_left + half_states, n, D, PADDED_D, rest, ROWS)
    put(upper, turned, PADDED_D, ROWS)
    put(lower, y, PADDED_D, ROWS)
    h = product(lower, entry, 1, D, D, W, PADDED_D, PADDED_W, ROWS, CHUNK, PRECISION)
    h += vector(entry_bias + model * W, W, PADDED_W)
    along = product(upper, entry, 1, D, D, W, PADDED_D, PADDED_W, ROWS, CHUNK, PRECISION)
    for layer in range(DEPTH):
        if right is not None:
            keep(right + 2 * half * layer, along, W, PADDED_W, rest, ROWS)
            keep(right + 2 * half * layer + half, h, W, PADDED_W, rest, ROWS)
        matrix = layers + layer * W * W
        put(upper, along, PADDED_W, ROWS)
        put(lower, h, PADDED_W, ROWS)
        z = product(lower, matrix, 1, W, W, W, PADDED_W, PADDED_W, ROWS, CHUNK, PRECISION)
        z = shifted(z, shifts, model, layer, first, batch, W, DEPTH, SHARED_SHIFTS, PADDED_W, ROWS)
        s = sigmoid(z)
        h += z * s
        step = product(upper, matrix, 1, W, W, W, PADDED_W, PADDED_W, ROWS, CHUNK, PRECISION)
        slope = s + z * s * (1.0 - s)
        along += slope * step
        # slopes wait where the left sides of products come to lie, which replace them on the way
        # back
        keep(left + 2 * half * layer, slope, W, PADDED_W, rest, ROWS)
        bent = s * (1.0 - s) * (2.0 + z * (1.0 - 2.0 * s)) * step
        keep(left + 2 * half * layer + half, bent, W, PADDED_W, rest, ROWS)
    if right is not None:
        keep(right + 2 * half * DEPTH, along, W, PADDED_W, rest, ROWS)
        keep(right + 2 * half * DEPTH + half, h, W, PADDED_W, rest, ROWS)
    if to_x is not None:
        put(upper, along, PADDED_W, ROWS)
        put(lower, h, PADDED_W, ROWS)
        out = product(lower, exit, 1, W, W, D, PADDED_W, PADDED_D, ROWS, CHUNK, PRECISION)
        out += vector(exit_bias + model * D, D, PADDED_D)
        moved = product(upper, exit, 1, W, W, D, PADDED_W, PADDED_D, ROWS, CHUNK, PRECISION)
        v = rows_of(grad_field, D, PADDED_D, rest, ROWS)
        b = number(coefficients, 3, model, first, batch, SHARED_NUMBERS, ROWS)
        to_x += (model * batch + first) * D
        to_numbers += 4 * (model * batch + first)
        # the first part of the gradient waits in its place, which saves tiles in registers
        keep(to_x, e * y + b * v + w * (moved - e * out), D, PADDED_D, rest, ROWS)
        place_of = to_numbers + 4 * tl.arange(0, ROWS)
        exists = tl.arange(0, ROWS) < rest
        to_w = row_sums(a * v - e * y, out) + row_sums(moved, y)
        tl.store(place_of + 1, to_w.to(tl.float32), mask=exists)
        tl.store(place_of + 2, row_sums(v, w * out).to(tl.float32), mask=exists)
        tl.store(place_of + 3, row_sums(v, y).to(tl.float32), mask=exists)
    put(upper, w * y, PADDED_D, ROWS)
    put(lower, n, PADDED_D, ROWS)
    # swapped strides read a matrix transposed, so no transposed copy is made
    g = product(upper, exit, W, 1, D, W, PADDED_D, PADDED_W, ROWS, CHUNK, PRECISION)
    m = product(lower, exit, W, 1, D, W, PADDED_D, PADDED_W, ROWS, CHUNK, PRECISION)
    for back in range(DEPTH):
        layer = DEPTH - 1 - back
        pair = left + 2 * half * layer
        slope = rows_of(pair, W, PADDED_W, rest, ROWS)
        p, q = slope * g, slope * m + rows_of(pair + half, W, PADDED_W, rest, ROWS) * g
        put(upper, p, PADDED_W, ROWS)
        put(lower, q, PADDED_W, ROWS)
        if right is not None:
            keep(pair, p, W, PADDED_W, rest, ROWS)
            keep(pair + half, q, W, PADDED_W, rest, ROWS)
        matrix = layers + layer * W * W
        g += product(upper, matrix, W, 1, W, W, PADDED_W, PADDED_W, ROWS, CHUNK, PRECISION)
        m += product(lower, matrix, W, 1, W, W, PADDED_W, PADDED_W, ROWS, CHUNK, PRECISION)
    if right is not None:
        keep(entry_left, g, W, PADDED_W, rest, ROWS)
        keep(entry_left + half, m, W, PADDED_W, rest, ROWS)
    if to_x is not None:
        put(upper, g, PADDED_W, ROWS)
        put(lower, m, PADDED_W, ROWS)
        pulled = product(upper, entry, D, 1, W, D, PADDED_W, PADDED_D, ROWS, CHUNK, PRECISION)
        to_y = product(lower, entry, D, 1, W, D, PADDED_W, PADDED_D, ROWS, CHUNK, PRECISION)
        to_y += rows_of(to_x, D, PADDED_D, rest, ROWS)
        c = number(coefficients, 0, model, first, batch, SHARED_NUMBERS, ROWS)
        keep(to_x, c * to_y, D, PADDED_D, rest, ROWS)
        place_of = to_numbers + 4 * tl.arange(0, ROWS)
        exists = tl.arange(0, ROWS) < rest
        to_c = row_sums(rows_of(states, D, PADDED_D, rest, ROWS), to_y)
        tl.store(place_of, to_c.to(tl.float32), mask=exists)
        more = row_sums(rows_of(grad_field, D, PADDED_D, rest, ROWS), pulled).to(tl.float32)
        # the gradient of a has two terms, and the second is known only after the way back
        known = tl.load(place_of + 2, mask=exists, other=0.0)
        tl.store(place_of + 2, known + more, mask=exists)
