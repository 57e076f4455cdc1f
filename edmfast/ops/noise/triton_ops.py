"""Standard normals on a GPU by Triton, with the bits of `edmfast.ops.noise.reference`: kernel and host side."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from edmfast.ops._shared.triton_device import on_device_of
from edmfast.ops._shared.triton_philox import normals, stream_word
from edmfast.ops._shared.triton_tiling import tiling


# Triton would compile the kernel again for some of these numbers, such as 1 and multiples of 16
@triton.jit(do_not_specialize=["stream", "first_population", "first_particle"])
def noise_kernel(
    out,
    rng,
    stream,
    first_population,
    first_particle,
    particles,
    elements,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Fill ROWS particles by COLUMNS counters of out [P, N, d] in each program; rng int64 [2]."""
    blocks = (elements + 3) // 4
    row_tiles, block_tiles = tl.cdiv(particles, ROWS), tl.cdiv(blocks, COLUMNS)
    tile = tl.program_id(0) // block_tiles
    block = (tl.program_id(0) % block_tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    population = (tile // row_tiles).to(tl.int64)
    particle = (tile % row_tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    # populations are counted in 64 bits, since the word has 28 for them
    word = stream_word(stream, tl.cast(first_population, tl.int64) + population)
    counter = tl.cast(first_particle, tl.int64) + particle
    numbers = normals(block, counter, word, rng)
    start = out + (population * particles + particle) * elements
    for j in tl.static_range(4):
        element = j * blocks + block
        inside = (particle < particles) & (block < blocks) & (element < elements)
        tl.store(start + element, numbers[j].to(out.dtype.element_ty), mask=inside)


def noise(
    like: Tensor, rng: Tensor, stream: int, first_population: int, first_particle: int
) -> Tensor:
    """See `edmfast.ops.noise.reference.noise`; `like` is float32 or float64."""
    populations, particles, elements = like.shape
    out = torch.empty_like(like, memory_format=torch.contiguous_format)
    if out.numel() == 0:
        return out
    blocks = (elements + 3) // 4
    rows, columns, warps = tiling(particles, blocks)
    grid = (populations * triton.cdiv(particles, rows) * triton.cdiv(blocks, columns),)
    with on_device_of(like):
        noise_kernel[grid](
            out,
            rng.contiguous(),
            stream,
            first_population,
            first_particle,
            particles,
            elements,
            ROWS=rows,
            COLUMNS=columns,
            num_warps=warps,
            enable_fp_fusion=False,
        )
    return out
