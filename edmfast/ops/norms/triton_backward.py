"""Backward of norms with silu by Triton, with the symbols of `edmfast.ops.norms.reference`."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl

from edmfast.ops.norms.triton_tiles import (
    address,
    channels_and_positions,
    load,
    no_sum,
    normalised,
    over_group,
    over_rows,
    place,
    slopes,
    store_sum,
    summand,
    total,
)


@triton.jit(do_not_specialize=["shared", "groups"])
def backward_kernel(
    grad,
    x,
    scale,
    shift,
    mean,
    rstd,
    to_x,
    to_scale,
    to_shift,
    sums,
    strides,
    shared,
    groups,
    positions,
    WIDTH: tl.constexpr,
    CENTRED: tl.constexpr,
    SILU: tl.constexpr,
    STAGE: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """Write to_x, to_scale and to_shift, or the sums of parts.

    grad, to_x like x; to_scale, to_shift [blocks of rows, pieces of S, C]; sums [N, G, 2, parts] when they are
    written, [N, G, 2] when they are read.
    """
    dtype: tl.constexpr = scale.dtype.element_ty
    of_scale, first, end, group, part, block = place(
        shared, groups, positions, WIDTH, STAGE, ROWS, STEPS, CHANNELS, POSITIONS
    )
    channel, position, real, within = channels_and_positions(
        group, part, positions, WIDTH, STAGE, CHANNELS, POSITIONS
    )
    pieces = tl.cdiv(positions, POSITIONS) if STAGE != "held" else 1
    parts = tl.cdiv(WIDTH, CHANNELS) * pieces
    weight = of_scale * groups * WIDTH + channel
    a = load(scale, weight, real, dtype)
    offset = load(shift, weight, real, dtype)
    scale_sum = no_sum(ROWS, CHANNELS, POSITIONS, STEPS, dtype)
    shift_sum = no_sum(ROWS, CHANNELS, POSITIONS, STEPS, dtype)
    # sums for scale and shift stay in registers over all steps
    for step in range(STEPS):
        row = first + step * ROWS + tl.arange(0, ROWS)[:, None, None]
        inside = within & (row < end)
        where = address(row, channel, position, strides)
        xs = load(x, where, inside, dtype)
        g = load(grad, where, inside, dtype)
        normal, r = normalised(xs, mean, rstd, row, groups, group, end, dtype)
        slope, _ = slopes(a * normal + offset, SILU)
        u = g * slope
        if STAGE != "sums":
            scale_sum += summand(u * normal, STEPS)
            shift_sum += summand(u, STEPS)
        w = a * u
        if STAGE == "apply":
            along = total(sums, 0, 2, row, groups, group)
            level = total(sums, 1, 2, row, groups, group)
        else:
            # a tile holds a whole group, or in the stage "sums" a part of one
            along, level = over_group(w * normal), over_group(w)
        if STAGE == "sums":
            store_sum(sums, 0, 2, parts, row, groups, group, part, along)
            store_sum(sums, 1, 2, parts, row, groups, group, part, level)
        else:
            count = WIDTH * positions
            w = w - normal * (along / count)
            if CENTRED:
                w = w - level / count
            tl.store(to_x + where, (r * w).to(to_x.dtype.element_ty), mask=inside)
    if STAGE != "sums":
        # every program has a place of its own, so the order of the sums is fixed without atomics
        number = (block.to(tl.int64) * pieces + part % pieces) * groups * WIDTH + channel
        tl.store(to_scale + number, over_rows(scale_sum), mask=real)
        tl.store(to_shift + number, over_rows(shift_sum), mask=real)
