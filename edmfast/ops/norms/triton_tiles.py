"""Device side: the functions on tiles that the kernels of norms share.

They say where a program works, load and sum tiles, and give the derivatives of silu. A tile is [rows, channels,
positions]: rows that share one row of scale and shift, and channels of one group. Kernels address memory by three
strides, so channels_last is read in place; addresses are int64. Elements outside of the tensor are loaded as 0.
They add nothing to a sum, since every summand has a factor that is loaded.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def place(
    shared,
    groups,
    positions,
    WIDTH: tl.constexpr,
    STAGE: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """Return (row of scale, first row, end of the rows that share it, group, part of the group, block of rows).

    The parts of a group follow each other, and then the groups of a block of rows, in the order of memory.
    """
    part, rest = 0, tl.program_id(0)
    # a whole group has one part, which saves a division
    if STAGE != "held":
        parts = tl.cdiv(WIDTH, CHANNELS) * tl.cdiv(positions, POSITIONS)
        part, rest = rest % parts, rest // parts
    group = rest % groups
    block = rest // groups
    blocks = tl.cdiv(shared, ROWS * STEPS)
    of_scale = (block // blocks).to(tl.int64)
    start = of_scale * shared
    return of_scale, start + block % blocks * (ROWS * STEPS), start + shared, group, part, block


@triton.jit
def channels_and_positions(
    group,
    part,
    positions,
    WIDTH: tl.constexpr,
    STAGE: tl.constexpr,
    CHANNELS: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """Return (channel [1, K, 1], position [1, 1, P], whether the channel exists, whether both do)."""
    within = tl.arange(0, CHANNELS)[None, :, None]
    position = tl.arange(0, POSITIONS)[None, None, :]
    if STAGE != "held":
        pieces = tl.cdiv(positions, POSITIONS)
        within += part // pieces * CHANNELS
        position += part % pieces * POSITIONS
    exists = within < WIDTH
    return group * WIDTH + within, position, exists, exists & (position < positions)


@triton.jit
def size_of(part, positions, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, POSITIONS: tl.constexpr):
    """Return how many numbers a part of a group has; zero or negative beyond the last part."""
    pieces = tl.cdiv(positions, POSITIONS)
    across = tl.minimum(WIDTH - part // pieces * CHANNELS, CHANNELS)
    return across * tl.minimum(positions - part % pieces * POSITIONS, POSITIONS)


@triton.jit
def address(row, channel, position, strides):
    """Return offsets int64 [R, K, P] from the first element of a tensor."""
    # products of strides exceed 32 bits in tensors of more than 2^31 numbers
    within = channel.to(tl.int64) * strides[1] + position.to(tl.int64) * strides[2]
    return row * strides[0] + within


@triton.jit
def load(tensor, where, inside, dtype: tl.constexpr):
    """Return the tile at some offsets, 0 outside of the tensor."""
    return tl.load(tensor + where, mask=inside, other=0.0).to(dtype)


@triton.jit
def normalised(x, mean, rstd, row, groups, group, end, dtype: tl.constexpr):
    """Return (N(x), reciprocal deviation [R, 1, 1]) of a tile x of rows before `end`."""
    number = row * groups + group
    r = load(rstd, number, row < end, dtype)
    return (x - load(mean, number, row < end, dtype)) * r, r


@triton.jit
def over_group(tile):
    """Return the sum [R, 1, 1] of a tile [R, K, P] over its group."""
    # one axis is summed within threads first, which leaves one number of each for the sums between them
    flat = tl.reshape(tile, [tile.shape[0], tile.shape[1] * tile.shape[2]])
    return tl.sum(flat, 1)[:, None, None]


@triton.jit
def over_rows(tile):
    """Return the sum [1, K, 1] of a tile [R, K, P] over rows and positions."""
    return tl.sum(tl.sum(tile, 2, keep_dims=True), 0, keep_dims=True)


@triton.jit
def no_sum(
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    POSITIONS: tl.constexpr,
    STEPS: tl.constexpr,
    dtype: tl.constexpr,
):
    """Return the zero that `summand`s are added to."""
    total = tl.zeros([ROWS, CHANNELS, POSITIONS], dtype)
    if STEPS == 1:
        total = tl.zeros([1, CHANNELS, 1], dtype)
    return total


@triton.jit
def summand(tile, STEPS: tl.constexpr):
    """Return what a step adds to a sum over rows.

    With several steps whole tiles are added, because sums between threads take longer than sums within a thread. A
    single tile is summed at once, because it would fill registers.
    """
    if STEPS == 1:
        tile = over_rows(tile)
    return tile


@triton.jit
def store_sum(sums, index, COUNT: tl.constexpr, parts, row, groups, group, part, value):
    """Store sum number `index` of a part of a group in sums [N, G, COUNT, parts]."""
    entry = ((row * groups + group) * COUNT + index) * parts + part
    tl.store(sums + entry, value)


@triton.jit
def total(sums, index, COUNT: tl.constexpr, row, groups, group):
    """Return sum number `index` of a group from sums [N, G, COUNT]."""
    return tl.load(sums + (row * groups + group) * COUNT + index)


@triton.jit
def slopes(z, SILU: tl.constexpr):
    """Return the first and second derivative of silu at z, or of the identity; finite for every finite z."""
    first, second = tl.full(z.shape, 1.0, z.dtype), tl.full(z.shape, 0.0, z.dtype)
    if SILU:
        # written with the sigmoid and without an exponential, both are finite at every finite z
        s = tl.sigmoid(z)
        change = s * (1.0 - s)
        first = s + z * change
        second = change * (2.0 + z * (1.0 - 2.0 * s))
    return first, second
