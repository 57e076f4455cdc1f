"""Device side: the functions on tiles that attention's kernels share.

They say where a program works, load and multiply tiles, and make the tile of scores with which every pass begins
(`score_tile`, `probability_tile`). A tensor comes to a kernel as a tuple of its pointer and its strides, so that
no view is copied; addresses are int64. `query` and `key` are positions: one is a column of a tile of scores, the
other a row.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def place(length, heads, BLOCK: tl.constexpr):
    """Return (batch, head, first position) of a program. The blocks of one head follow each other."""
    # neighbouring programs share a head, whose tiles then stay in the cache
    blocks = tl.cdiv(length, BLOCK)
    head = tl.program_id(0) // blocks
    first = tl.program_id(0) % blocks * BLOCK
    return (head // heads).to(tl.int64), (head % heads).to(tl.int64), first


@triton.jit
def _at(tensor, position, length, first, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """Return (addresses, whether they exist) of COLUMNS columns from `first`, of rows of a head."""
    column = first + tl.arange(0, COLUMNS)
    rows = position.to(tl.int64)[:, None] * tensor[1]
    exists = (position < length)[:, None]
    # a mask on columns takes registers, so it is left out where columns fill the tile
    if WIDTH % COLUMNS != 0:
        exists = exists & (column < WIDTH)[None, :]
    return tensor[0] + rows + column.to(tl.int64)[None, :] * tensor[2], exists


@triton.jit
def of_head(tensor, batch, head, UNIT: tl.constexpr):
    """Return (pointer, strides of rows and columns) of one head. All strides but the last come in UNITs."""
    offset = (batch * tensor[1] + head * tensor[2]) * UNIT
    return tensor[0] + offset, tl.cast(tensor[3], tl.int64) * UNIT, tensor[4]


@triton.jit
def load(tensor, position, length, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Return the tile [positions, PADDED] of a head, 0 outside of [length, WIDTH]."""
    address, exists = _at(tensor, position, length, 0, WIDTH, PADDED)
    return tl.load(address, mask=exists, other=0.0)


@triton.jit
def store(tensor, value, position, length, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Write the tile [positions, PADDED] of a head where it is inside of [length, WIDTH]."""
    address, exists = _at(tensor, position, length, 0, WIDTH, PADDED)
    tl.store(address, value.to(tensor[0].dtype.element_ty), mask=exists)


@triton.jit
def row_dots(x, y, position, length, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Return the sum of x y over each row of a head, in float32."""
    x_tile = load(x, position, length, WIDTH, PADDED).to(tl.float32)
    return tl.sum(x_tile * load(y, position, length, WIDTH, PADDED).to(tl.float32), axis=1)


@triton.jit
def load_side(
    tensor,
    batch,
    head,
    position,
    length,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    CHUNK: tl.constexpr,
    UNIT: tl.constexpr,
):
    """Return rows of one head of a tensor [B, H, length, WIDTH] as a side of a product.

    A side is a tile [positions, PADDED] where all columns are held at a time. Where CHUNK columns are, it is
    the place of the tile in memory, and each product loads the columns again.
    """
    rows = of_head(tensor, batch, head, UNIT)
    where = rows[0], rows[1], rows[2], position, length
    return where if CHUNK < PADDED else load(rows, position, length, WIDTH, PADDED)


@triton.jit
def product(
    total,
    x,
    y,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return total + x yᵀ of two sides."""
    if CHUNK < PADDED:
        for first in range(0, WIDTH, CHUNK):
            address, exists = _at(x, x[3], x[4], first, WIDTH, CHUNK)
            x_chunk = tl.load(address, mask=exists, other=0.0)
            address, exists = _at(y, y[3], y[4], first, WIDTH, CHUNK)
            y_chunk = tl.load(address, mask=exists, other=0.0)
            total = tl.dot(x_chunk, y_chunk.T, total, input_precision=PRECISION)
    else:
        total = tl.dot(x, y.T, total, input_precision=PRECISION)
    return total


@triton.jit
def load_row(tensor, batch, head, position, length):
    """Return the values [positions] of a tensor [B, H, length], 0 outside."""
    address = tensor[0] + (batch * tensor[1] + head * tensor[2]) + position.to(tl.int64) * tensor[3]
    return tl.load(address, mask=position < length, other=0.0)


@triton.jit
def store_row(tensor, value, batch, head, position, length):
    """Write the values [positions] of a tensor [B, H, length]."""
    address = tensor[0] + (batch * tensor[1] + head * tensor[2]) + position.to(tl.int64) * tensor[3]
    tl.store(address, value, mask=position < length)


@triton.jit
def load_lse(lse, batch, head, position, length):
    """Return the log-sum-exp [positions], inf for a row without keys, so that its probabilities are 0."""
    row = load_row(lse, batch, head, position, length)
    return tl.where(row == float("-inf"), float("inf"), row)


@triton.jit
def attended(mask, batch, query, key, keys, CAUSAL: tl.constexpr):
    """Return which scores of a tile count; `mask` is a bool tensor [B, M] or None.

    Queries beyond the last need no check: their tiles are 0 and add nothing to any sum.
    """
    counts = key < keys
    if mask is not None:
        address = mask[0] + batch * mask[1] + key.to(tl.int64) * mask[2]
        counts = counts & (tl.load(address, mask=key < keys, other=0) != 0)
    if CAUSAL:
        counts = counts & (key <= query)
    return counts


@triton.jit
def accumulate(
    total,
    x,
    y,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return total + x y, where x is a tile of scores, rounded to the precision of the side y."""
    # all columns are needed here, since the product sums over positions
    y_tile = load(y, y[3], y[4], WIDTH, PADDED) if CHUNK < PADDED else y
    return tl.dot(x.to(y_tile.dtype), y_tile, total, input_precision=PRECISION)


@triton.jit
def key_end(start, keys, QUERIES: tl.constexpr, CAUSAL: tl.constexpr):
    """Return the end of the keys that a block of queries from `start` may attend to."""
    end = keys
    if CAUSAL:
        # by causality, later keys count for no query of the block
        end = tl.minimum(keys, start + QUERIES)
    return end


@triton.jit
def query_begin(start, QUERIES: tl.constexpr, CAUSAL: tl.constexpr):
    """Return the first block of queries that may attend to a block of keys from `start`."""
    begin = 0
    if CAUSAL:
        # by causality, earlier queries attend to no key of the block
        begin = start // QUERIES * QUERIES
    return begin


@triton.jit
def score_tile(
    zero,
    left,
    right,
    at,
    scale,
    D: tl.constexpr,
    PADDED_D: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    """Return (S = scale · left rightᵀ, which scores count) of a tile.

    The sides left and right are queries and keys, or keys and queries where the tile is transposed. at:
    (batch, positions of the queries, positions of the keys, number of keys, key mask), the positions shaped
    as the column and the row of the tile. zero: a tile of zeros, which the product starts from.
    """
    batch, query, key, keys, mask = at
    counts = attended(mask, batch, query, key, keys, CAUSAL)
    scores = product(zero, left, right, D, PADDED_D, CHUNK, PRECISION) * scale
    return scores, counts


@triton.jit
def probability_tile(
    zero,
    left,
    right,
    lse,
    at,
    scale,
    D: tl.constexpr,
    PADDED_D: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    """Return P = exp(S - lse) of a tile, 0 where a score does not count; lse has the shape of the queries."""
    scores, counts = score_tile(zero, left, right, at, scale, D, PADDED_D, CHUNK, PRECISION, CAUSAL)
    return tl.where(counts, tl.exp(scores - lse), 0.0)
