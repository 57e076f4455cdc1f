"""Device side: the functions that the kernels of residual perceptrons share.

They load and store tiles of rows, multiply them with matrices, and compute sigmoids. A tile is [ROWS, padded
columns] in float32. It is 0 beyond the columns that exist, since matrices and vectors are read as 0 there. The
left side of a product is first written to memory of the program's own, which stays in the second-level cache,
and then read a few columns at a time: a whole tile beside a matrix would take more registers than there are.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def put(operand, tile, PADDED: tl.constexpr, ROWS: tl.constexpr):
    """Write a tile to where all threads of the program can read it, after all have read what was there."""
    at = tl.arange(0, ROWS)[:, None] * PADDED + tl.arange(0, PADDED)[None, :]
    # threads read what others have written, so all wait before and after
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
    """Return A B, where `put` has written A [ROWS, PADDED_K], and B[k, n] is at matrix + k STEP_K + n STEP_N."""
    total = tl.zeros([ROWS, PADDED_N], tl.float32)
    row = tl.arange(0, ROWS)[:, None] * PADDED_K
    n = tl.arange(0, PADDED_N)[None, :]
    COLUMNS: tl.constexpr = CHUNK if CHUNK < PADDED_K else PADDED_K
    for first in range(0, PADDED_K, COLUMNS):
        left = tl.load(operand + row + first + tl.arange(0, COLUMNS)[None, :])
        k = first + tl.arange(0, COLUMNS)[:, None]
        # a mask takes registers, so it is left out where there is nothing to mask
        if K == PADDED_K and N == PADDED_N:
            right = tl.load(matrix + k * STEP_K + n * STEP_N)
        else:
            right = tl.load(matrix + k * STEP_K + n * STEP_N, mask=(k < K) & (n < N), other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    return total


@triton.jit
def vector(pointer, N: tl.constexpr, PADDED: tl.constexpr):
    """Return N numbers as a row [1, PADDED], with 0 beyond the last."""
    n = tl.arange(0, PADDED)
    return tl.load(pointer + n, mask=n < N, other=0.0).to(tl.float32)[None, :]


@triton.jit
def place(N: tl.constexpr, PADDED: tl.constexpr, rest, ROWS: tl.constexpr):
    """Return (offsets, whether they exist) of a block's rows of N numbers, `rest` rows of which are in the batch.

    The offsets start at the first row of the block. They fit 32 bits and are mostly known to the compiler, which
    saves registers.
    """
    row = tl.arange(0, ROWS)[:, None]
    n = tl.arange(0, PADDED)[None, :]
    inside = row < rest
    if N != PADDED:
        inside = inside & (n < N)
    return row * N + n, inside


@triton.jit
def rows_of(pointer, N: tl.constexpr, PADDED: tl.constexpr, rest, ROWS: tl.constexpr):
    """Return the rows of a block as a tile [ROWS, PADDED] in float32, 0 outside."""
    at, inside = place(N, PADDED, rest, ROWS)
    return tl.load(pointer + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def keep(pointer, tile, N: tl.constexpr, PADDED: tl.constexpr, rest, ROWS: tl.constexpr):
    """Write the rows of a block from a tile [ROWS, PADDED]."""
    at, inside = place(N, PADDED, rest, ROWS)
    tl.store(pointer + at, tile.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def number(
    coefficients, which: tl.constexpr, model, first, batch, SHARED: tl.constexpr, ROWS: tl.constexpr
):
    """Return c, w, a or b (`which` = 0 to 3) of the rows of a block as a column, 0 beyond the batch."""
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
    """Return z plus the shifts of a layer; shifts [K, B, depth·W], or [K, 1, depth·W] where SHARED."""
    if SHARED:
        return z + vector(shifts + (model * DEPTH + layer) * W, W, PADDED)
    n = tl.arange(0, PADDED)[None, :]
    row = tl.arange(0, ROWS)[:, None]
    at = shifts + ((model * batch + first) * DEPTH + layer) * W + row * (DEPTH * W) + n
    inside = (row < batch - first) & (n < W)
    return z + tl.load(at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def sigmoid(z):
    """Return 1/(1 + e^-z)."""
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def row_sums(x, y):
    """Return the sums of x y over each row, in float64."""
    # products of float32 are exact in float64, so only the sums round
    return tl.sum(x.to(tl.float64) * y.to(tl.float64), 1)
