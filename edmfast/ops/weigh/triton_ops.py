"""Weights of a step and their resampling on a GPU by Triton, with the bits of `edmfast.ops.weigh.reference`.

One launch writes the log-weights, the launches of `systematic_resample` follow, and one more writes the roots and
counts those that survive; plain torch does the rest, which is one number for each population. The standard
deviation of the increments is summed in another order than in the reference.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from edmfast.ops._shared.sums import population_sum
from edmfast.ops._shared.triton_device import on_device_of
from edmfast.ops.noise.reference import uniform
from edmfast.ops.systematic_resample.triton_ops import systematic_resample

TILE = 1024


@triton.jit
def _increments(
    ratio,
    now,
    past,
    ancestors,
    exponents,
    row,
    lane,
    inside,
    moved,
    particles,
    MODELS: tl.constexpr,
):
    """Return the increments, float64, of the particles `lane`: a block, or a single one.

    row: where the population starts. exponents: those of the population, or None. moved: whether the population
    was resampled. An ancestor that names no particle makes the increment NaN, and nothing is read there.
    """
    value = tl.load(ratio + row + lane, mask=inside, other=0.0).to(tl.float64)
    parent = tl.load(ancestors + row + lane, mask=inside, other=0)
    parent = tl.where(moved, parent, lane)
    # the host does not check ancestors, so one that names no particle must not be read through
    named = (parent >= 0) & (parent < particles)
    parent = tl.where(named, parent, 0)
    for k in tl.static_range(MODELS):
        after = tl.load(now[k] + row + lane, mask=inside, other=0.0).to(tl.float64)
        change = after - tl.load(past[k] + row + parent, mask=inside, other=0.0).to(tl.float64)
        if exponents is not None:
            change = tl.load(exponents + k) * change
        value = value - change
    if MODELS > 0:
        value = tl.where(named, value, float("nan"))
    return value


@triton.jit(do_not_specialize=["particles", "tiles"])
def weigh_kernel(
    log_weights,
    reset,
    ancestors,
    ratio,
    now,
    past,
    exponents,
    out,
    spreads,
    particles,
    tiles,
    MODELS: tl.constexpr,
    WEIGH: tl.constexpr,
    TILE: tl.constexpr,
):
    """Write the new log-weights, and sums for the standard deviation of the increments.

    log_weights, out float64 [P, N]; reset bool [P]; ancestors int32, ratio [P, N]; now, past: tuples of MODELS
    tensors like ratio; exponents float64 [P, MODELS] or None. spreads float64 [3, P, tiles]: the sum of the finite
    increments minus the first one of the population, the sum of their squares, and their number.
    """
    program = tl.program_id(0)
    p = program // tiles
    row = p.to(tl.int64) * particles
    lane = (program % tiles) * TILE + tl.arange(0, TILE)
    inside = lane < particles
    powers = exponents
    if exponents is not None:
        powers = exponents + p * MODELS
    moved = tl.load(reset + p) != 0
    increments = _increments(
        ratio, now, past, ancestors, powers, row, lane, inside, moved, particles, MODELS
    )
    # the first increment is subtracted before squares are summed, which keeps their digits
    centre = _increments(
        ratio, now, past, ancestors, powers, row, 0, particles > 0, moved, particles, MODELS
    )
    # an infinite or NaN increment cannot be a centre
    centre = tl.where(centre - centre == 0.0, centre, 0.0)
    off = increments - centre
    finite = inside & (off - off == 0.0)
    off = tl.where(finite, off, 0.0)
    tl.store(spreads + program, tl.sum(off))
    tl.store(spreads + tl.num_programs(0) + program, tl.sum(off * off))
    tl.store(spreads + 2 * tl.num_programs(0) + program, tl.sum(finite.to(tl.float64)))
    kept = tl.load(log_weights + row + lane, mask=inside, other=0.0)
    kept = tl.where(moved, 0.0, kept)
    if WEIGH:
        # a particle of weight zero keeps it, since its energies may be infinite before and after a move
        kept = tl.where(kept == float("-inf"), kept, kept + increments)
    tl.store(out + row + lane, kept, mask=inside)


@triton.jit(do_not_specialize=["particles", "tiles"])
def roots_kernel(before, ancestors, root, survivors, particles, tiles, TILE: tl.constexpr):
    """Write the root of every slot, and count runs of equal roots.

    before, ancestors, root: int32 [P, N]. survivors: int64 [P], zeros at the start.
    """
    program = tl.program_id(0)
    p = program // tiles
    row = p.to(tl.int64) * particles
    slot = (program % tiles) * TILE + tl.arange(0, TILE)
    inside = slot < particles
    own = tl.load(before + row + tl.load(ancestors + row + slot, mask=inside, other=0))
    tl.store(root + row + slot, own, mask=inside)
    # the slot before may belong to another program, so its root is looked up again
    follows = inside & (slot > 0)
    left = tl.load(before + row + tl.load(ancestors + row + slot - 1, mask=follows, other=0))
    begins = inside & ((slot == 0) | (own != left))
    tl.atomic_add(survivors + p, tl.sum(begins.to(tl.int64)))


def weigh_and_resample(
    log_weights: Tensor,
    log_z: Tensor,
    ancestors: Tensor,
    root: Tensor,
    resampled: Tensor,
    degenerate: Tensor,
    ratio: Tensor,
    energies: Sequence[Tensor],
    energies_before: Sequence[Tensor],
    exponents: Tensor | None,
    rng: Tensor,
    weigh: bool,
    ess_threshold: float,
    scheme: int,
    first_population: int,
) -> tuple[Tensor, ...]:
    """See `edmfast.ops.weigh.reference.weigh_and_resample`, for the systematic scheme."""
    populations, particles = log_weights.shape
    tiles = triton.cdiv(particles, TILE)
    out = torch.empty_like(log_weights, memory_format=torch.contiguous_format)
    spreads = log_weights.new_empty(3, populations, tiles)
    with on_device_of(log_weights):
        if populations > 0:
            weigh_kernel[(populations * tiles,)](
                log_weights.contiguous(),
                resampled.contiguous(),
                ancestors.contiguous(),
                ratio.contiguous(),
                tuple(energy.contiguous() for energy in energies),
                tuple(energy.contiguous() for energy in energies_before),
                None if exponents is None else exponents.contiguous(),
                out,
                spreads,
                particles,
                tiles,
                MODELS=len(energies),
                WEIGH=weigh,
                TILE=TILE,
                num_warps=4,
                enable_fp_fusion=False,
            )
    point = uniform(rng, populations, first_population)
    ancestors, log_mean, ess, resampled, seen = systematic_resample(out, point, ess_threshold)
    new_root = torch.empty_like(root, memory_format=torch.contiguous_format)
    survivors = torch.zeros_like(log_z, dtype=torch.int64)
    with on_device_of(log_weights):
        if populations > 0:
            roots_kernel[(populations * tiles,)](
                root.contiguous(),
                ancestors,
                new_root,
                survivors,
                particles,
                tiles,
                TILE=TILE,
                num_warps=4,
            )
    total, squares, count = (population_sum(part) for part in spreads)
    # rounding can make the variance of nearly equal increments negative, hence the clamp below
    variance = (squares - total * total / count) / count
    return (
        out,
        log_z + torch.where(resampled, log_mean, 0.0),
        ancestors,
        new_root,
        ess,
        log_mean,
        resampled,
        degenerate | seen,
        variance.clamp(min=0.0).sqrt(),
        survivors,
    )
