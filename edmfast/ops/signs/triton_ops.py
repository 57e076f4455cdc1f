"""Random signs on a GPU by Triton, with the bits of `edmfast.ops.signs.reference`: kernel and host side."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from edmfast.ops._shared.triton_device import on_device_of
from edmfast.ops._shared.triton_philox import stream_word
from edmfast.ops._shared.triton_tiling import tiling
from edmfast.ops.signs.reference import PATTERNS


@triton.jit
def _negatives(radius_bits, angle_bits):
    """Return whether each normal of a Box-Muller pair is negative, int32 0 or 1, from two uint32 words."""
    # a radius word of 2^32 - 128 or more has these 25 bits
    turned = ((radius_bits >> 7) == 33554431).to(tl.int32)
    half = (angle_bits >> 31).to(tl.int32)
    quarter = ((angle_bits >> 30) & 1).to(tl.int32)
    return half ^ quarter ^ turned, half ^ turned


# Triton would compile the kernel again for some of these numbers, such as 1 and multiples of 16
@triton.jit(do_not_specialize=["stream", "first_population", "first_particle"])
def signs_kernel(
    out,
    rng,
    stream,
    first_population,
    first_particle,
    particles,
    elements,
    count,
    draws,
    image_rows,
    image_columns,
    COLOURED: tl.constexpr,
    PAIRED: tl.constexpr,
    PATTERNS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Fill ROWS particles by COLUMNS counters of out [P, N, count, d] in each program; rng int64 [2]."""
    drawn = tl.cast(elements, tl.int64) * draws
    blocks = (drawn + 3) // 4
    row_tiles, block_tiles = tl.cdiv(particles, ROWS), tl.cdiv(blocks, COLUMNS)
    tile = tl.program_id(0) // block_tiles
    block = (tl.program_id(0) % block_tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    population = (tile // row_tiles).to(tl.int64)
    particle = (tile % row_tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    # populations are counted in 64 bits, since the word has 28 for them
    word = stream_word(stream, tl.cast(first_population, tl.int64) + population)
    counter = (tl.cast(first_particle, tl.int64) + particle).to(tl.uint32)
    level = tl.load(rng + 1)
    second = (level & 1).to(tl.int32)
    step = (level - second if PAIRED else level).to(tl.uint32)
    first_word, counter = tl.broadcast(block.to(tl.uint32), counter)
    a, b, c, d = tl.philox(tl.load(rng), first_word, step, counter, word.to(tl.uint32))
    one, two = _negatives(a, b)
    three, four = _negatives(c, d)
    negative = (one, two, three, four)
    start = out + (population * particles + particle) * elements * count
    for j in tl.static_range(4):
        element = j * blocks + block
        inside = (particle < particles) & (block < blocks) & (element < drawn)
        if COLOURED:
            draw, place = element // elements, element % elements
            row = (place // image_columns % image_rows % 2).to(tl.int32)
            column = (place % image_columns % 2).to(tl.int32)
            for pattern in tl.static_range(1 if PAIRED else PATTERNS):
                probe = PATTERNS * draw + pattern
                turned = row * 0
                if PAIRED:
                    turned = (row ^ column) & second
                elif pattern == 1:
                    turned = row ^ column
                elif pattern == 2:
                    turned = row
                elif pattern == 3:
                    turned = column
                value = (1 - 2 * (negative[j] ^ turned)).to(tl.float32)
                to = start + probe * elements + place
                tl.store(to, value.to(out.dtype.element_ty), mask=inside & (probe < count))
        else:
            value = (1 - 2 * negative[j]).to(tl.float32)
            tl.store(start + element, value.to(out.dtype.element_ty), mask=inside)


def signs(
    like: Tensor,
    rng: Tensor,
    count: int,
    rows: int,
    columns: int,
    stream: int,
    first_population: int,
    first_particle: int,
) -> Tensor:
    """See `edmfast.ops.signs.reference.signs`."""
    populations, particles, elements = like.shape
    out = like.new_empty((populations, particles, count, elements))
    if out.numel() == 0:
        return out
    coloured = rows > 0
    draws = -(-count // PATTERNS) if coloured else count
    blocks = (draws * elements + 3) // 4
    tile_rows, tile_columns, warps = tiling(particles, blocks)
    tiles = triton.cdiv(particles, tile_rows) * triton.cdiv(blocks, tile_columns)
    with on_device_of(like):
        signs_kernel[(populations * tiles,)](
            out,
            rng.contiguous(),
            stream,
            first_population,
            first_particle,
            particles,
            elements,
            count,
            draws,
            max(rows, 1),
            max(columns, 1),
            COLOURED=coloured,
            PAIRED=coloured and count == 1,
            PATTERNS=PATTERNS,
            ROWS=tile_rows,
            COLUMNS=tile_columns,
            num_warps=warps,
            enable_fp_fusion=False,
        )
    return out
