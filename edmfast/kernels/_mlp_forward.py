"""Energy and field of residual perceptrons: a program takes a block of rows through one model and back.

Activations and slopes stay in registers. Of a row only x is read, and its energy and field are written:
4 (2 d + 1) bytes; weights are read by every program, from the second-level cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from edmfast.kernels._mlp_tiles import numbers, place, row_sums, shifted, sigmoid, times, vector


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
    """x [B, D], field [K, B, D], energy [K, B]; weights stacked, [K, ...]; program_id(1) is the model."""
    model = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c, w, a, b = numbers(coefficients, model, row, batch, SHARED_NUMBERS)
    at, inside = place(row, batch, D, PADDED_D)
    y = c * tl.load(x + at, mask=inside, other=0.0)
    first, last = entry + model * W * D, exit + model * W * D
    h = times(y, first, 1, D, D, W, PADDED_D, PADDED_W, PARTS, PRECISION)
    h += vector(entry_bias + model * W, W, PADDED_W)
    slopes = ()
    for layer in tl.static_range(DEPTH):
        matrix = layers + (model * DEPTH + layer) * W * W
        z = times(h, matrix, 1, W, W, W, PADDED_W, PADDED_W, PARTS, PRECISION)
        z = shifted(z, shifts, model, layer, row, batch, W, DEPTH, SHARED_SHIFTS, PADDED_W)
        s = sigmoid(z)
        h += z * s
        slope = s + z * s * (1.0 - s)
        # the compiler of kernels knows no unpacking
        slopes = slopes + (slope.to(layers.dtype.element_ty),)  # noqa: RUF005
    out = times(h, last, 1, W, W, D, PADDED_W, PADDED_D, 1, PRECISION)
    out += vector(exit_bias + model * D, D, PADDED_D)
    total = 0.5 * row_sums(y, y)[:, None] - w.to(tl.float64) * row_sums(out, y)[:, None]
    number = model * batch + row[:, None]
    tl.store(energy + number, total.to(tl.float32), mask=(row < batch)[:, None])
    g = times(w * y, last, W, 1, D, W, PADDED_D, PADDED_W, PARTS, PRECISION)
    for back in tl.static_range(DEPTH):
        matrix = layers + (model * DEPTH + (DEPTH - 1 - back)) * W * W
        p = g * slopes[DEPTH - 1 - back].to(tl.float32)
        g += times(p, matrix, W, 1, W, W, PADDED_W, PADDED_W, PARTS, PRECISION)
    pulled = times(g, first, D, 1, W, D, PADDED_W, PADDED_D, 1, PRECISION)
    tl.store(field + model * batch * D + at, a * (w * out + pulled) + b * y, mask=inside)
