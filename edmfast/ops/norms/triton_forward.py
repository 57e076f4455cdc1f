"""Forward norms with silu by Triton: y, mean and rstd.

Within a tile the variance is computed from the deviations from the mean. The mean of these deviations is the error
of the rounded mean, and it corrects both. The parts of a group are combined from their means, these errors and
their sums of squared deviations, so that a large mean costs the variance no digits.
Source: Chan, Golub & LeVeque 1983, The American Statistician 37 (the corrected variance, and that of parts).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl

from edmfast.ops.norms.triton_tiles import (
    address,
    channels_and_positions,
    load,
    over_group,
    place,
    size_of,
    store_sum,
)


@triton.jit
def _together(
    sums,
    row,
    groups,
    group,
    positions,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    POSITIONS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Return (mean, sum of squared deviations) of a group from the sums of its parts."""
    parts = tl.cdiv(WIDTH, CHANNELS) * tl.cdiv(positions, POSITIONS)
    part = tl.arange(0, PARTS)[None, None, :]
    entry = (row * groups + group) * 3 * parts + part
    means = tl.load(sums + entry, mask=part < parts, other=0.0)
    missed = tl.load(sums + entry + parts, mask=part < parts, other=0.0)
    squares = tl.load(sums + entry + 2 * parts, mask=part < parts, other=0.0)
    size = size_of(part, positions, WIDTH, CHANNELS, POSITIONS)
    # the size is zero or negative beyond the last part, which must not count
    size = tl.where(part < parts, size, 0).to(means.dtype)
    count = WIDTH * positions
    mean = over_group(means * size) / count
    # the mean above is rounded, and the mean of these deviations is its error
    off = means - mean + missed
    rest = over_group(size * off) / count
    return mean + rest, over_group(squares + size * off * off) - count * rest * rest


@triton.jit(do_not_specialize=["shared", "groups"])
def forward_kernel(
    x,
    scale,
    shift,
    y,
    mean,
    rstd,
    sums,
    strides,
    shared,
    groups,
    positions,
    # without this type Triton would pass eps in float32
    eps: tl.float64,
    WIDTH: tl.constexpr,
    CENTRED: tl.constexpr,
    SILU: tl.constexpr,
    STAGE: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    POSITIONS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Write y, mean and rstd, or the sums of parts.

    x, y [N, C, S] of the same strides; scale, shift [M, C]; mean, rstd [N, G]; sums [N, G, 3, parts].
    """
    dtype: tl.constexpr = scale.dtype.element_ty
    of_scale, first, end, group, part, _block = place(
        shared, groups, positions, WIDTH, STAGE, ROWS, STEPS, CHANNELS, POSITIONS
    )
    channel, position, real, inside = channels_and_positions(
        group, part, positions, WIDTH, STAGE, CHANNELS, POSITIONS
    )
    parts = tl.cdiv(WIDTH, CHANNELS) * tl.cdiv(positions, POSITIONS)
    row = first + tl.arange(0, ROWS)[:, None, None]
    inside = inside & (row < end)
    where = address(row, channel, position, strides)
    xs = load(x, where, inside, dtype)
    if STAGE == "apply":
        # means and squared deviations of parts do not simply add up, so each program combines them
        m, squares = _together(
            sums, row, groups, group, positions, WIDTH, CHANNELS, POSITIONS, PARTS
        )
    else:
        size = size_of(part, positions, WIDTH, CHANNELS, POSITIONS)
        m = tl.zeros([ROWS, 1, 1], dtype)
        missed = tl.zeros([ROWS, 1, 1], dtype)
        if CENTRED:
            m = over_group(xs) / size
        # elements outside were loaded as 0, so their deviation is not 0
        off = tl.where(inside, xs - m, 0.0)
        squares = over_group(off * off)
        if CENTRED:
            missed = over_group(off) / size
            # the deviations are from a rounded mean, and this removes what its error adds
            squares -= size * missed * missed
    if STAGE == "sums":
        store_sum(sums, 0, 3, parts, row, groups, group, part, m)
        store_sum(sums, 1, 3, parts, row, groups, group, part, missed)
        store_sum(sums, 2, 3, parts, row, groups, group, part, squares)
    else:
        if STAGE == "held":
            m += missed
        r = tl.rsqrt((squares / (WIDTH * positions) + eps).to(dtype))
        weight = of_scale * groups * WIDTH + channel
        z = load(scale, weight, real, dtype) * ((xs - m) * r) + load(shift, weight, real, dtype)
        if SILU:
            z = z * tl.sigmoid(z)
        tl.store(y + where, z.to(y.dtype.element_ty), mask=inside)
        number = row * groups + group
        # all parts have the same statistics, and one of them stores them
        if part == 0:
            tl.store(mean + number, m, mask=row < end)
            tl.store(rstd + number, r, mask=row < end)
