"""What the kernels of residual perceptrons share: tiles of rows, their product with a matrix, and silu.

A tile is [ROWS, padded columns] in float32; what lies beyond the columns that exist is 0, since matrices and
vectors are read as 0 there.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _part(
    tile,
    matrix,
    first,
    STEP_K: tl.constexpr,
    STEP_N: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    PADDED_K: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    k = tl.arange(0, PADDED_K)[:, None]
    n = first + tl.arange(0, COLUMNS)[None, :]
    address = matrix + k * STEP_K + n * STEP_N
    if K == PADDED_K and N % COLUMNS == 0:
        right = tl.load(address)
    else:
        right = tl.load(address, mask=(k < K) & (n < N), other=0.0)
    return tl.dot(tile.to(right.dtype), right, input_precision=PRECISION)


@triton.jit
def _beside(left, right):
    """[ROWS, n] twice -> [ROWS, 2 n]."""
    both = tl.permute(tl.join(left, right), (0, 2, 1))
    return tl.reshape(both, [left.shape[0], 2 * left.shape[1]])


@triton.jit
def times(
    tile,
    matrix,
    STEP_K: tl.constexpr,
    STEP_N: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    PADDED_K: tl.constexpr,
    PADDED_N: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """tile B with B[k, n] at matrix + k STEP_K + n STEP_N; in PARTS (1, 2 or 4) of the columns of B where all
    of it would not fit shared memory."""
    COLUMNS: tl.constexpr = PADDED_N // PARTS
    found = _part(tile, matrix, 0, STEP_K, STEP_N, K, N, PADDED_K, COLUMNS, PRECISION)
    if PARTS > 1:
        second = _part(tile, matrix, COLUMNS, STEP_K, STEP_N, K, N, PADDED_K, COLUMNS, PRECISION)
        found = _beside(found, second)
    if PARTS > 2:
        third = _part(tile, matrix, 2 * COLUMNS, STEP_K, STEP_N, K, N, PADDED_K, COLUMNS, PRECISION)
        last = _part(tile, matrix, 3 * COLUMNS, STEP_K, STEP_N, K, N, PADDED_K, COLUMNS, PRECISION)
        found = _beside(found, _beside(third, last))
    return found


@triton.jit
def vector(pointer, N: tl.constexpr, PADDED: tl.constexpr):
    """[1, PADDED] of N numbers."""
    n = tl.arange(0, PADDED)
    return tl.load(pointer + n, mask=n < N, other=0.0).to(tl.float32)[None, :]


@triton.jit
def place(row, batch, N: tl.constexpr, PADDED: tl.constexpr):
    """(offsets, whether they exist) of rows of N numbers."""
    n = tl.arange(0, PADDED)[None, :]
    return row[:, None] * N + n, (row < batch)[:, None] & (n < N)


@triton.jit
def numbers(coefficients, model, row, batch, SHARED: tl.constexpr):
    """(c, w, a, b) of the rows of a model, each a column; 0 beyond the batch."""
    at = coefficients + 4 * (model + 0 * row if SHARED else model * batch + row)
    exists = row < batch
    c = tl.load(at, mask=exists, other=0.0)[:, None]
    w = tl.load(at + 1, mask=exists, other=0.0)[:, None]
    a = tl.load(at + 2, mask=exists, other=0.0)[:, None]
    b = tl.load(at + 3, mask=exists, other=0.0)[:, None]
    return c, w, a, b


@triton.jit
def shifted(
    z,
    shifts,
    model,
    layer,
    row,
    batch,
    W: tl.constexpr,
    DEPTH: tl.constexpr,
    SHARED: tl.constexpr,
    PADDED: tl.constexpr,
):
    """z and the shifts of a layer, which all rows share or not; [K, B or 1, depth·W]."""
    if SHARED:
        return z + vector(shifts + (model * DEPTH + layer) * W, W, PADDED)
    n = tl.arange(0, PADDED)[None, :]
    at = ((model * batch + row[:, None]) * DEPTH + layer) * W + n
    return z + tl.load(shifts + at, mask=(row < batch)[:, None] & (n < W), other=0.0).to(tl.float32)


@triton.jit
def sigmoid(z):
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def row_sums(x, y):
    """Of x y, in float64."""
    return tl.sum(x.to(tl.float64) * y.to(tl.float64), 1)
