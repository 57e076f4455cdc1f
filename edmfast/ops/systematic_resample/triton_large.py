"""Systematic resampling of large populations in five launches, with one program for each tile of a population.

The launches find maxima; sum the integer weights; scan these sums and decide; find first slots; find owners of
slots. Sums are exact integers, so their order does not matter. The host does not wait for any of them.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from edmfast.ops.systematic_resample.triton_fixed_point import (
    first_slots,
    integer_weights,
    owners,
    sums_of,
    threshold_of,
)
from edmfast.ops.systematic_resample.triton_population import conclude, load_log_weights, maximum_of

TILE = 2048
# a fused multiply-add would change bits of the exponential
_CONFIGURATION = {"num_warps": 8, "enable_fp_fusion": False}
# Triton would compile the kernels again for some of these numbers, such as 1 and multiples of 16
_UNSPECIALISED = ["particles", "bits", "tiles"]


@triton.jit(do_not_specialize=_UNSPECIALISED)
def maximum_kernel(log_weights, maxima, has_nan, particles, tiles, TILE: tl.constexpr):
    """Write maxima float64 and has_nan int32 [P, tiles]."""
    program = tl.program_id(0)
    lane = (program % tiles) * TILE + tl.arange(0, TILE)
    maximum, nan = maximum_of(load_log_weights(log_weights, particles, program // tiles, lane))
    tl.store(maxima + program, maximum)
    tl.store(has_nan + program, nan)


@triton.jit
def _tile_weights(log_weights, maxima, particles, bits, tiles, TILE: tl.constexpr):
    """Return (population, particles, integer weights) of the tile of a program."""
    p = tl.program_id(0) // tiles
    lane = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)
    value = load_log_weights(log_weights, particles, p, lane)
    return p, lane, integer_weights(value, tl.load(maxima + p), bits, lane < particles)


@triton.jit(do_not_specialize=_UNSPECIALISED)
def sum_kernel(log_weights, maxima, sums, particles, bits, tiles, TILE: tl.constexpr):
    """Write sums int64 [P, tiles, 4], see `sums_of`; maxima [P] are those of populations."""
    _, _, q = _tile_weights(log_weights, maxima, particles, bits, tiles, TILE)
    parts = sums_of(q)
    start = sums + 4 * tl.program_id(0).to(tl.int64)
    for part in tl.static_range(4):
        tl.store(start + part, parts[part])


@triton.jit(do_not_specialize=_UNSPECIALISED)
def decide_kernel(
    maxima,
    has_nan,
    sums,
    ess_threshold: tl.float64,
    offsets,
    outputs,
    particles,
    bits,
    tiles,
    WIDTH: tl.constexpr,
):
    """Write the decision, and offsets int64 [P, tiles + 1]: sums of the weights before each tile, and of all."""
    p = tl.program_id(0)
    lane = tl.arange(0, WIDTH)
    total = tl.zeros([], tl.int64)
    high, middle, low = total, total, total
    nan = tl.zeros([], tl.int32)
    start = p.to(tl.int64) * tiles
    for begin in range(0, tiles, WIDTH):
        tile = start + begin + lane
        inside = begin + lane < tiles
        weight = tl.load(sums + 4 * tile, mask=inside, other=0)
        tl.store(offsets + p + tile, total + tl.cumsum(weight) - weight, mask=inside)
        total += tl.sum(weight)
        high += tl.sum(tl.load(sums + 4 * tile + 1, mask=inside, other=0))
        middle += tl.sum(tl.load(sums + 4 * tile + 2, mask=inside, other=0))
        low += tl.sum(tl.load(sums + 4 * tile + 3, mask=inside, other=0))
        nan = tl.maximum(nan, tl.max(tl.load(has_nan + tile, mask=inside, other=0)))
    tl.store(offsets + p + start + tiles, total)
    parts = (total, high, middle, low)
    conclude(outputs, p, tl.load(maxima + p), nan, parts, particles, bits, ess_threshold)


@triton.jit(do_not_specialize=_UNSPECIALISED)
def slot_kernel(
    log_weights,
    uniform,
    maxima,
    offsets,
    resampled,
    slots,
    particles,
    bits,
    tiles,
    TILE: tl.constexpr,
):
    """Write slots int32 [P, N], the first slot of every particle, where the population is resampled."""
    program = tl.program_id(0)
    # the host does not know the decision, so it launches always, and the work is left out here
    if tl.load(resampled + program // tiles):
        p, lane, q = _tile_weights(log_weights, maxima, particles, bits, tiles, TILE)
        start = offsets + p.to(tl.int64) * (tiles + 1)
        total = tl.load(start + tiles)
        before = tl.load(start + program % tiles) + tl.cumsum(q) - q
        first = first_slots(before, particles, total, threshold_of(tl.load(uniform + p), total))
        tl.store(slots + p.to(tl.int64) * particles + lane, first, mask=lane < particles)


@triton.jit(do_not_specialize=_UNSPECIALISED)
def owner_kernel(
    slots, resampled, ancestors, particles, tiles, TILE: tl.constexpr, LEVELS: tl.constexpr
):
    """Write ancestors int32 [P, N] from slots, or the identity where the population is not resampled."""
    p = tl.program_id(0) // tiles
    start = p.to(tl.int64) * particles
    lane = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)
    owner = lane
    if tl.load(resampled + p):
        owner = owners(slots + start, lane, particles, LEVELS)
    tl.store(ancestors + start + lane, owner, mask=lane < particles)


def resample_large(
    log_weights: Tensor,
    uniform: Tensor,
    ess_threshold: float,
    slots: Tensor,
    ancestors: Tensor,
    outputs: tuple[Tensor, ...],
    bits: int,
) -> None:
    """Fill ancestors [P, N] and outputs (log_mean, ess, resampled, degenerate) [P]; slots is scratch memory."""
    populations, n = log_weights.shape
    tiles = triton.cdiv(n, TILE)
    grid, config = (populations * tiles,), {"TILE": TILE, **_CONFIGURATION}
    tile_maxima = log_weights.new_empty((populations, tiles), dtype=torch.float64)
    has_nan = torch.empty_like(tile_maxima, dtype=torch.int32)
    # the sum of weights and the three parts of the sum of squares
    sums = log_weights.new_empty((populations, tiles, 4), dtype=torch.int64)
    offsets = log_weights.new_empty((populations, tiles + 1), dtype=torch.int64)
    maximum_kernel[grid](log_weights, tile_maxima, has_nan, n, tiles, **config)
    maxima = tile_maxima.amax(1)
    sum_kernel[grid](log_weights, maxima, sums, n, bits, tiles, **config)
    # few tiles need no wide program
    width = {"WIDTH": min(1024, triton.next_power_of_2(tiles)), "num_warps": 4}
    decide_kernel[(populations,)](
        maxima,
        has_nan,
        sums,
        ess_threshold,
        offsets,
        outputs,
        n,
        bits,
        tiles,
        **_CONFIGURATION | width,
    )
    resampled = outputs[2]
    slot_kernel[grid](
        log_weights, uniform, maxima, offsets, resampled, slots, n, bits, tiles, **config
    )
    levels = (n - 1).bit_length()
    owner_kernel[grid](slots, resampled, ancestors, n, tiles, LEVELS=levels, **config)
