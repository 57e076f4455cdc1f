"""What the kernels of residual perceptrons share: tiles of rows, their product with a matrix, and silu.

A tile is [ROWS, padded columns] in float32; what lies beyond the columns that exist is 0, since matrices and
vectors are read as 0 there. The left side of a product is put down where its columns can be read a few at a time,
in memory of the program's own that stays in the second-level cache: held as a whole together with a matrix it
would take more registers than there are.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def put(operand, tile, PADDED: tl.constexpr, ROWS: tl.constexpr):
    """A tile where all threads of the program can read it, after all of them have read what was there."""
    at = tl.arange(0, ROWS)[:, None] * PADDED + tl.arange(0, PADDED)[None, :]
    tl.debug_barrier()
    tl.store(operand + at, tile.to(operand.dtype.element_ty))
    tl.debug_barrier()


@triton.jit
def product(
    operand,
    matrix,
    STEP_K: tl.constexpr,
    STEP_N: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    PADDED_K: tl.constexpr,
    PADDED_N: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A B of A [ROWS, PADDED_K], put down at operand, and B[k, n] at matrix + k STEP_K + n STEP_N."""
    total = tl.zeros([ROWS, PADDED_N], tl.float32)
    row = tl.arange(0, ROWS)[:, None] * PADDED_K
    n = tl.arange(0, PADDED_N)[None, :]
    COLUMNS: tl.constexpr = CHUNK if CHUNK < PADDED_K else PADDED_K
    for first in range(0, PADDED_K, COLUMNS):
        left = tl.load(operand + row + first + tl.arange(0, COLUMNS)[None, :])
        k = first + tl.arange(0, COLUMNS)[:, None]
        if K == PADDED_K and N == PADDED_N:
            right = tl.load(matrix + k * STEP_K + n * STEP_N)
        else:
            right = tl.load(matrix + k * STEP_K + n * STEP_N, mask=(k < K) & (n < N), other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    return total


@triton.jit
def vector(pointer, N: tl.constexpr, PADDED: tl.constexpr):
    """[1, PADDED] of N numbers."""
    n = tl.arange(0, PADDED)
    return tl.load(pointer + n, mask=n < N, other=0.0).to(tl.float32)[None, :]


@triton.jit
def place(N: tl.constexpr, PADDED: tl.constexpr, rest, ROWS: tl.constexpr):
    """(offsets, whether they exist) of a block's rows of N numbers, `rest` rows of which are in the batch.

    From the first row of the block: 32 bits, and most of an offset known to the compiler, save registers.
    """
    row = tl.arange(0, ROWS)[:, None]
    n = tl.arange(0, PADDED)[None, :]
    inside = row < rest
    if N != PADDED:
        inside = inside & (n < N)
    return row * N + n, inside


@triton.jit
def rows_of(pointer, N: tl.constexpr, PADDED: tl.constexpr, rest, ROWS: tl.constexpr):
    """[ROWS, PADDED] in float32, 0 where nothing is."""
    at, inside = place(N, PADDED, rest, ROWS)
    return tl.load(pointer + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def keep(pointer, tile, N: tl.constexpr, PADDED: tl.constexpr, rest, ROWS: tl.constexpr):
    at, inside = place(N, PADDED, rest, ROWS)
    tl.store(pointer + at, tile.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def number(
    coefficients, which: tl.constexpr, model, first, batch, SHARED: tl.constexpr, ROWS: tl.constexpr
):
    """c, w, a or b of a block's rows of a model, as a column; 0 beyond the batch."""
    row = tl.arange(0, ROWS)
    at = coefficients + 4 * model + which
    if SHARED:
        return tl.load(at + 0 * row, mask=row < batch - first, other=0.0)[:, None]
    at += 4 * (model * (batch - 1) + first)
    return tl.load(at + 4 * row, mask=row < batch - first, other=0.0)[:, None]


@triton.jit
def shifted(
    z,
    shifts,
    model,
    layer,
    first,
    batch,
    W: tl.constexpr,
    DEPTH: tl.constexpr,
    SHARED: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
):
    """z and the shifts of a layer, which all rows share or not; [K, B or 1, depth·W]."""
    if SHARED:
        return z + vector(shifts + (model * DEPTH + layer) * W, W, PADDED)
    n = tl.arange(0, PADDED)[None, :]
    row = tl.arange(0, ROWS)[:, None]
    at = shifts + ((model * batch + first) * DEPTH + layer) * W + row * (DEPTH * W) + n
    inside = (row < batch - first) & (n < W)
    return z + tl.load(at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def sigmoid(z):
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def row_sums(x, y):
    """Of x y, in float64."""
    return tl.sum(x.to(tl.float64) * y.to(tl.float64), 1)
