"""Energies and fields of residual perceptrons: each program takes blocks of rows through one model and back.

Activations stay on the chip. They are in registers, or in memory of the program's own that is small enough to stay
in the second-level cache, where the left side of a product and the slopes of a block wait. For a row the kernel
reads only x and writes only the energy and the field: 4 (2 d + 1) bytes. It reads the weights for every block,
from the same cache.
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
def forward_kernel(
    x,
    coefficients,
    shifts,
    entry,
    entry_bias,
    layers,
    exit,
    exit_bias,
    energy,
    field,
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
    """Write energy [K, B] and field [K, B, D] of x [B, D]; weights are stacked, [K, ...].

    scratch: [K, programs, ROWS (DEPTH PADDED_W + the wider of the two paddings)]. The grid is (any number,
    models).
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    model = tl.program_id(1).to(tl.int64)
    entry += model * W * D
    exit += model * W * D
    layers += model * DEPTH * W * W
    field += model * batch * D
    energy += model * batch
    WIDER: tl.constexpr = PADDED_D if PADDED_D > PADDED_W else PADDED_W
    scratch += (model * programs + program) * (ROWS * (WIDER + DEPTH * PADDED_W))
    slopes = scratch + ROWS * WIDER
    # a program takes several blocks, so its scratch memory is used again and stays in the cache
    for block in range(program, tl.cdiv(batch, ROWS), programs):
        first = tl.cast(block, tl.int64) * ROWS
        rest = batch - first
        c = number(coefficients, 0, model, first, batch, SHARED_NUMBERS, ROWS)
        put(scratch, c * rows_of(x + first * D, D, PADDED_D, rest, ROWS), PADDED_D, ROWS)
        h = product(scratch, entry, 1, D, D, W, PADDED_D, PADDED_W, ROWS, CHUNK, PRECISION)
        h += vector(entry_bias + model * W, W, PADDED_W)
        for layer in range(DEPTH):
            matrix = layers + layer * W * W
            put(scratch, h, PADDED_W, ROWS)
            z = product(scratch, matrix, 1, W, W, W, PADDED_W, PADDED_W, ROWS, CHUNK, PRECISION)
            z = shifted(
                z, shifts, model, layer, first, batch, W, DEPTH, SHARED_SHIFTS, PADDED_W, ROWS
            )
            s = sigmoid(z)
            h += z * s
            slope = s + z * s * (1.0 - s)
            keep(slopes + layer * (ROWS * PADDED_W), slope, PADDED_W, PADDED_W, ROWS, ROWS)
        put(scratch, h, PADDED_W, ROWS)
        out = product(scratch, exit, 1, W, W, D, PADDED_W, PADDED_D, ROWS, CHUNK, PRECISION)
        out += vector(exit_bias + model * D, D, PADDED_D)
        y = c * rows_of(x + first * D, D, PADDED_D, rest, ROWS)
        w = number(coefficients, 1, model, first, batch, SHARED_NUMBERS, ROWS)
        a = number(coefficients, 2, model, first, batch, SHARED_NUMBERS, ROWS)
        b = number(coefficients, 3, model, first, batch, SHARED_NUMBERS, ROWS)
        # the two terms may nearly cancel, so they are summed and subtracted in float64
        total = 0.5 * row_sums(y, y)[:, None] - w.to(tl.float64) * row_sums(out, y)[:, None]
        keep(energy + first, total, 1, 1, rest, ROWS)
        # the first part of the field waits in its place, which saves a tile in registers
        keep(field + first * D, a * w * out + b * y, D, PADDED_D, rest, ROWS)
        put(scratch, w * y, PADDED_D, ROWS)
        # swapped strides read a matrix transposed, so no transposed copy is made
        g = product(scratch, exit, W, 1, D, W, PADDED_D, PADDED_W, ROWS, CHUNK, PRECISION)
        for back in range(DEPTH):
            layer = DEPTH - 1 - back
            slope = rows_of(slopes + layer * (ROWS * PADDED_W), PADDED_W, PADDED_W, ROWS, ROWS)
            put(scratch, g * slope, PADDED_W, ROWS)
            matrix = layers + layer * W * W
            g += product(scratch, matrix, W, 1, W, W, PADDED_W, PADDED_W, ROWS, CHUNK, PRECISION)
        put(scratch, g, PADDED_W, ROWS)
        pulled = product(scratch, entry, D, 1, W, D, PADDED_W, PADDED_D, ROWS, CHUNK, PRECISION)
        pulled *= number(coefficients, 2, model, first, batch, SHARED_NUMBERS, ROWS)
        pulled += rows_of(field + first * D, D, PADDED_D, rest, ROWS)
        keep(field + first * D, pulled, D, PADDED_D, rest, ROWS)
