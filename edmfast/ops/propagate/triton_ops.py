"""The proposal step on a GPU by Triton, kernel and host side: x_u has the bits of the reference.

R is summed in another order than in `edmfast.ops.propagate.reference`: the four products of a counter in the
arithmetic of the state, the rest in float64.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from edmfast.ops._shared.triton_device import on_device_of
from edmfast.ops._shared.triton_philox import normals, stream_word
from edmfast.ops._shared.triton_tiling import tiling


@triton.jit
def _log_ratio(noise, cross, shift, moving, v_m, v_l):
    """Return R from the sums of |z|², <m, z> and |m|² and the number of elements that move."""
    ratio = v_m / v_l
    value = 0.5 * (1.0 - ratio) * noise - tl.sqrt(v_m) / v_l * cross - 0.5 / v_l * shift
    return value + 0.5 * moving * tl.log(ratio)


@triton.jit(do_not_specialize=["first_population", "first_particle"])
def propagate_kernel(
    x,
    scores,
    ancestors,
    coefficients,
    mask,
    rng,
    moved,
    ratio,
    first_population,
    first_particle,
    particles,
    elements,
    MODELS: tl.constexpr,
    EACH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Move ROWS particles in each program, COLUMNS counters at a time.

    x, moved [P, N, d]; scores: a tuple of MODELS like x; ancestors int32 [P, N]; coefficients float64
    [P, MODELS + 2], or [P, N, MODELS + 2] where EACH is true; mask bool [P, d] or None; rng int64 [2]; ratio
    [P, N] in the arithmetic's dtype.
    """
    dtype: tl.constexpr = ratio.dtype.element_ty
    blocks = (elements + 3) // 4
    row_tiles = tl.cdiv(particles, ROWS)
    population = (tl.program_id(0) // row_tiles).to(tl.int64)
    particle = (tl.program_id(0) % row_tiles) * ROWS + tl.arange(0, ROWS)
    exists = particle < particles
    row = population * particles + particle
    ancestor = tl.load(ancestors + row, mask=exists, other=0)
    # an ancestor that names no particle must not be read through; its R becomes NaN, which the weights report
    named = (ancestor >= 0) & (ancestor < particles)
    ancestor = tl.where(named, ancestor, 0)
    source = ((population * particles + ancestor) * elements)[:, None]
    target = (row * elements)[:, None]
    if EACH:
        # a column of rows, which the tiles of elements broadcast
        table = (coefficients + (MODELS + 2) * (population * particles + ancestor))[:, None]
    else:
        table = coefficients + (MODELS + 2) * population
    v_m, v_l = tl.load(table + MODELS), tl.load(table + MODELS + 1)
    scale = tl.sqrt(v_m).to(dtype)
    word = stream_word(0, tl.cast(first_population, tl.int64) + population)
    counter = (tl.cast(first_particle, tl.int64) + particle)[:, None]

    noise = tl.zeros([ROWS, COLUMNS], tl.float64)
    cross = tl.zeros([ROWS, COLUMNS], tl.float64)
    shift = tl.zeros([ROWS, COLUMNS], tl.float64)
    moving = tl.zeros([1, COLUMNS], tl.int32)
    for begin in range(0, blocks, COLUMNS):
        block = begin + tl.arange(0, COLUMNS)[None, :]
        numbers = normals(block, counter, word, rng)
        # the four products of a counter are summed in the dtype of the state, to save float64 units
        zz = tl.zeros([ROWS, COLUMNS], dtype)
        mz = tl.zeros([ROWS, COLUMNS], dtype)
        mm = tl.zeros([ROWS, COLUMNS], dtype)
        for j in tl.static_range(4):
            element = j * blocks + block
            within = (block < blocks) & (element < elements)
            inside = within & exists[:, None]
            m = tl.zeros([ROWS, COLUMNS], dtype)
            for k in tl.static_range(MODELS):
                score = tl.load(scores[k] + source + element, mask=inside, other=0.0).to(dtype)
                term = tl.load(table + k).to(dtype) * score
                m = term if k == 0 else m + term
            moves = within
            if mask is not None:
                free = tl.load(mask + population * elements + element, mask=within, other=0)
                moves = within & (free != 0)
            z = tl.where(moves, numbers[j].to(dtype), 0.0)
            m = tl.where(moves, m, 0.0)
            old = tl.load(x + source + element, mask=inside, other=0.0).to(dtype)
            # this is the order of the reference, which fixes the bits of the moved state
            new = (old + m) + scale * z
            tl.store(moved + target + element, new.to(moved.dtype.element_ty), mask=inside)
            zz += z * z
            mz += m * z
            mm += m * m
            moving += moves.to(tl.int32)
        noise += zz.to(tl.float64)
        cross += mz.to(tl.float64)
        shift += mm.to(tl.float64)
    value = _log_ratio(
        tl.sum(noise, axis=1),
        tl.sum(cross, axis=1),
        tl.sum(shift, axis=1),
        tl.sum(moving).to(tl.float64),
        tl.reshape(v_m, [ROWS]) if EACH else v_m,
        tl.reshape(v_l, [ROWS]) if EACH else v_l,
    )
    # the host reads nothing back, so NaN reports the bad ancestor
    value = tl.where(named, value, float("nan"))
    tl.store(ratio + row, value.to(dtype), mask=exists)


def propagate(
    x: Tensor,
    scores: Sequence[Tensor],
    ancestors: Tensor,
    coefficients: Tensor,
    rng: Tensor,
    mask: Tensor | None,
    first_population: int,
    first_particle: int,
) -> tuple[Tensor, Tensor]:
    """See `edmfast.ops.propagate.reference.propagate`."""
    populations, particles, elements = x.shape
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    moved = torch.empty_like(x, memory_format=torch.contiguous_format)
    ratio = x.new_empty((populations, particles), dtype=dtype)
    if ratio.numel() == 0:
        return moved, ratio
    rows, columns, warps = tiling(particles, max(1, (elements + 3) // 4))
    with on_device_of(x):
        propagate_kernel[(populations * triton.cdiv(particles, rows),)](
            x.contiguous(),
            tuple(score.contiguous() for score in scores),
            ancestors.contiguous(),
            coefficients.contiguous(),
            None if mask is None else mask.contiguous(),
            rng.contiguous(),
            moved,
            ratio,
            first_population,
            first_particle,
            particles,
            elements,
            MODELS=len(scores),
            EACH=coefficients.dim() == 3,
            ROWS=rows,
            COLUMNS=columns,
            num_warps=warps,
            enable_fp_fusion=False,
        )
    return moved, ratio
