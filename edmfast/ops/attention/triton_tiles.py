"""Device side: the functions on tiles that attention's kernels share.

They say where a program works, load and multiply tiles, and make the tile of scores with which every pass begins
(`probability_tile`). A tensor comes to a kernel as a tuple of its pointer and its strides, so that
no view is copied; addresses are int64. `query` and `key` are positions: one is a column of a tile of scores, the
other a row.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def place(length, heads, BLOCK: tl.constexpr, LAST_FIRST: tl.constexpr):
    """Return (batch, head, first position) of a program. The blocks of one head follow each other.

    LAST_FIRST: the last block comes first. Where it has the most work, short programs then end the launch.
    """
    # neighbouring programs share a head, whose tiles then stay in the cache
    blocks = tl.cdiv(length, BLOCK)
    head = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    if LAST_FIRST:
        block = blocks - 1 - block
    first = block * BLOCK
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
def load(
    tensor, position, length, WIDTH: tl.constexpr, PADDED: tl.constexpr, CHECKED: tl.constexpr
):
    """Return the tile [positions, PADDED] of a head, 0 outside of [length, WIDTH].

    CHECKED: some of the positions may be length or more.
    """
    address, exists = _at(tensor, position, length, 0, WIDTH, PADDED)
    # a load without a mask takes fewer registers and instructions
    masked = CHECKED or WIDTH % PADDED != 0
    return tl.load(address, mask=exists, other=0.0) if masked else tl.load(address)


@triton.jit
def store(tensor, value, position, length, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Write the tile [positions, PADDED] of a head where it is inside of [length, WIDTH]."""
    address, exists = _at(tensor, position, length, 0, WIDTH, PADDED)
    tl.store(address, value.to(tensor[0].dtype.element_ty), mask=exists)


@triton.jit
def row_dots(x, y, position, length, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Return the sum of x y over each row of a head, in float32."""
    x_tile = load(x, position, length, WIDTH, PADDED, True).to(tl.float32)
    return tl.sum(x_tile * load(y, position, length, WIDTH, PADDED, True).to(tl.float32), axis=1)


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
    CHECKED: tl.constexpr,
):
    """Return rows of one head of a tensor [B, H, length, WIDTH] as a side of a product.

    A side is a tile [positions, PADDED] where all columns are held at a time. Where CHUNK columns are, it is
    the place of the tile in memory, and each product loads the columns again.
    """
    rows = of_head(tensor, batch, head, UNIT)
    where = rows[0], rows[1], rows[2], position, length
    return where if CHUNK < PADDED else load(rows, position, length, WIDTH, PADDED, CHECKED)


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
def load_row(tensor, batch, head, position, length, CHECKED: tl.constexpr):
    """Return the values [positions] of a tensor [B, H, length], 0 outside."""
    address = tensor[0] + (batch * tensor[1] + head * tensor[2]) + position.to(tl.int64) * tensor[3]
    exists = position < length
    return tl.load(address, mask=exists, other=0.0) if CHECKED else tl.load(address)


@triton.jit
def store_row(tensor, value, batch, head, position, length):
    """Write the values [positions] of a tensor [B, H, length]."""
    address = tensor[0] + (batch * tensor[1] + head * tensor[2]) + position.to(tl.int64) * tensor[3]
    tl.store(address, value, mask=position < length)


@triton.jit
def load_lse(lse, batch, head, position, length, CHECKED: tl.constexpr):
    """Return the log-sum-exp [positions] to base 2, inf for a row without keys, whose probabilities are then 0."""
    row = load_row(lse, batch, head, position, length, CHECKED)
    return tl.where(row == float("-inf"), float("inf"), row * LOG2_E)


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
    y_tile = load(y, y[3], y[4], WIDTH, PADDED, True) if CHUNK < PADDED else y
    return tl.dot(x.to(y_tile.dtype), y_tile, total, input_precision=PRECISION)


@triton.jit
def key_ranges(start, keys, mask, QUERIES: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr):
    """Return (end of the blocks of keys that all count, end of all keys) of a block of queries from `start`.

    Every key of the first blocks counts for every query, so they need no check. The others do.
    """
    end = keys
    full = keys
    if CAUSAL:
        # by causality, later keys count for no query of the block
        end = tl.minimum(keys, start + QUERIES)
        full = tl.minimum(keys, start + 1)
    full = full // KEYS * KEYS
    if mask is not None:
        full = 0
    return full, end


@triton.jit
def query_ranges(
    start, queries, keys, mask, QUERIES: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr
):
    """Return (first, begin, end, last) of the blocks of queries that may attend to a block of keys from `start`.

    Blocks from `begin` to `end` need no check. Those from `first` to `begin` and from `end` to `last` do.
    """
    last = tl.cdiv(queries, QUERIES) * QUERIES
    first = 0
    begin = 0
    if CAUSAL:
        # by causality, earlier queries attend to no key of the block
        first = tl.minimum(start // QUERIES * QUERIES, last)
        begin = tl.minimum(tl.cdiv(start + KEYS - 1, QUERIES) * QUERIES, last)
    end = tl.maximum(queries // QUERIES * QUERIES, begin)
    every = start + KEYS <= keys
    if mask is not None:
        every = False
    # a block of keys that is not full is checked for all queries
    begin = tl.where(every, begin, first)
    end = tl.where(every, end, first)
    return first, begin, end, last


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
    CHECKED: tl.constexpr,
):
    """Return P = exp2(scale · left rightᵀ - lse) of a tile, 0 where a score does not count.

    The sides left and right are queries and keys, or keys and queries where the tile is transposed. lse has the
    shape of the queries; it and scale are to base 2. at: (batch, positions of the queries, positions of the keys,
    number of keys, key mask), the positions shaped as the column and the row of the tile. zero: a tile of zeros,
    which the product starts from. CHECKED: some score may not count.
    """
    scores = product(zero, left, right, D, PADDED_D, CHUNK, PRECISION)
    # the exponential to base 2 is one instruction, and this product and difference are another
    p = tl.exp2(scores * scale - lse)
    if CHECKED:
        batch, query, key, keys, mask = at
        p = tl.where(attended(mask, batch, query, key, keys, CAUSAL), p, 0.0)
    return p
