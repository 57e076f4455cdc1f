"""Double backward of norms with silu by Triton, with the symbols of `edmfast.ops.norms.reference`.

Let h = N(x) and e = g silu''(z). The cotangent of N(x) is linear in t = r (v - mean(v) - h mean(v h)), so its
means follow from the means of products of v, w, a² e and h. The parts of a large group sum all of these products
beforehand, which takes one pass over the arrays instead of two.
"""

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

SUMS = tl.constexpr(12)


@triton.jit
def _store_sums(sums, parts, row, groups, group, part, v, h, w, e, a, fixed):
    """Store the sums of v, v h, w h, w, w v, fixed, fixed h, and of a² e times 1, h, h², v and v h."""
    bent = a * a * e
    moved = bent * h
    store_sum(sums, 0, SUMS, parts, row, groups, group, part, over_group(v))
    store_sum(sums, 1, SUMS, parts, row, groups, group, part, over_group(v * h))
    store_sum(sums, 2, SUMS, parts, row, groups, group, part, over_group(w * h))
    store_sum(sums, 3, SUMS, parts, row, groups, group, part, over_group(w))
    store_sum(sums, 4, SUMS, parts, row, groups, group, part, over_group(w * v))
    store_sum(sums, 5, SUMS, parts, row, groups, group, part, over_group(fixed))
    store_sum(sums, 6, SUMS, parts, row, groups, group, part, over_group(fixed * h))
    store_sum(sums, 7, SUMS, parts, row, groups, group, part, over_group(bent))
    store_sum(sums, 8, SUMS, parts, row, groups, group, part, over_group(moved))
    store_sum(sums, 9, SUMS, parts, row, groups, group, part, over_group(moved * h))
    store_sum(sums, 10, SUMS, parts, row, groups, group, part, over_group(bent * v))
    store_sum(sums, 11, SUMS, parts, row, groups, group, part, over_group(moved * v))


@triton.jit
def _sums_after(sums, row, groups, group, r, level, along_v, along_w):
    """Return the sums over a group of the cotangent of N(x), and of that cotangent times h plus w t."""
    v = total(sums, 0, SUMS, row, groups, group)
    vh = total(sums, 1, SUMS, row, groups, group)
    wh = total(sums, 2, SUMS, row, groups, group)
    w = total(sums, 3, SUMS, row, groups, group)
    wv = total(sums, 4, SUMS, row, groups, group)
    fixed = total(sums, 5, SUMS, row, groups, group)
    fixed_h = total(sums, 6, SUMS, row, groups, group)
    bent = total(sums, 7, SUMS, row, groups, group)
    bent_h = total(sums, 8, SUMS, row, groups, group)
    bent_hh = total(sums, 9, SUMS, row, groups, group)
    bent_v = total(sums, 10, SUMS, row, groups, group)
    bent_vh = total(sums, 11, SUMS, row, groups, group)
    # t is written out in its terms v, level and h along_v, whose sums are known
    plain = bent_v - level * bent - along_v * bent_h - (along_v * w + along_w * v)
    along = bent_vh - level * bent_h - along_v * bent_hh - (along_v * wh + along_w * vh)
    across = wv - level * w - along_v * wh
    return fixed + r * plain, fixed_h + r * (along + across)


@triton.jit(do_not_specialize=["shared", "groups"])
def double_backward_kernel(
    v,
    b,
    c,
    grad,
    x,
    scale,
    shift,
    mean,
    rstd,
    to_grad,
    second,
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
    """Write to_grad, second (the cotangent of x), to_scale and to_shift, or the sums of parts.

    v, grad, to_grad, second like x; b, c like scale or None; to_scale, to_shift [blocks, pieces, C]; sums
    [N, G, 12, parts] when they are written, [N, G, 12] when they are read.
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
    if b is not None:
        b_own = load(b, weight, real, dtype)
    if c is not None:
        c_own = load(c, weight, real, dtype)
    scale_sum = no_sum(ROWS, CHANNELS, POSITIONS, STEPS, dtype)
    shift_sum = no_sum(ROWS, CHANNELS, POSITIONS, STEPS, dtype)
    for step in range(STEPS):
        row = first + step * ROWS + tl.arange(0, ROWS)[:, None, None]
        inside = within & (row < end)
        where = address(row, channel, position, strides)
        vs = load(v, where, inside, dtype)
        g = load(grad, where, inside, dtype)
        xs = load(x, where, inside, dtype)
        h, r = normalised(xs, mean, rstd, row, groups, group, end, dtype)
        slope, bend = slopes(a * h + offset, SILU)
        u, e = g * slope, g * bend
        if STAGE == "sums":
            # the parts of the derivative of z, and of the cotangent of h, that do not depend on v
            moved = tl.zeros([ROWS, CHANNELS, POSITIONS], dtype)
            to_h = tl.zeros([ROWS, CHANNELS, POSITIONS], dtype)
            if b is not None:
                moved += b_own * h
                to_h += u * b_own
            if c is not None:
                moved += c_own
            fixed = e * moved * a + to_h
            # t needs the means of the whole group, which no part knows yet, so products are summed
            # from which the means of the cotangent follow
            _store_sums(sums, parts, row, groups, group, part, vs, h, a * u, e, a, fixed)
        else:
            share = tl.full([1, 1, 1], 1.0, dtype) / (WIDTH * positions)
            if STAGE == "apply":
                level = total(sums, 0, SUMS, row, groups, group) * share
                along_v = total(sums, 1, SUMS, row, groups, group) * share
                along_w = total(sums, 2, SUMS, row, groups, group) * share
            else:
                level, along_v = over_group(vs) * share, over_group(vs * h) * share
                along_w = over_group(a * (u * h)) * share
            if not CENTRED:
                # RMS norm subtracts no mean, so t has no term for it
                level = tl.zeros([ROWS, 1, 1], dtype)
            t = r * vs - r * level - h * (r * along_v)
            # the order below keeps few tiles in registers: five while threads sum the first time, four later
            moved = a * t
            of_h = a * (r * along_v)
            if b is not None:
                moved += b_own * h
                of_h -= b_own
            if c is not None:
                moved += c_own
            tl.store(to_grad + where, (slope * moved).to(to_grad.dtype.element_ty), mask=inside)
            q = e * moved
            ut = u * t
            # written with t instead of v, whose tile is then not needed any more
            to_h = a * q - u * of_h - along_w * t - h * (along_w * (r * along_v))
            to_h -= along_w * (r * level)
            if STAGE == "apply":
                plain, along = _sums_after(sums, row, groups, group, r, level, along_v, along_w)
            else:
                along = over_group(to_h * h + a * ut)
            scale_sum += summand(q * h + ut, STEPS)
            if STAGE == "held":
                plain = over_group(to_h)
            shift_sum += summand(q, STEPS)
            to_h -= h * (along * share)
            if CENTRED:
                to_h -= plain * share
            tl.store(second + where, (r * to_h).to(second.dtype.element_ty), mask=inside)
    if STAGE != "sums":
        # every program has a place of its own, so the order of the sums is fixed without atomics
        number = (block.to(tl.int64) * pieces + part % pieces) * groups * WIDTH + channel
        tl.store(to_scale + number, over_rows(scale_sum), mask=real)
        tl.store(to_shift + number, over_rows(shift_sum), mask=real)
