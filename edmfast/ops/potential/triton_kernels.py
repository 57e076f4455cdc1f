"""Device side of the inner-product potential: one kernel for each operator, with sums in float64."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl

_NUMBERS, WARPS = 512, 4
"""The elements of a tile of rows by columns: four for each thread, so that sums in float64 fit registers."""


def tile(rows: int, elements: int) -> dict[str, int]:
    """Return ROWS and COLUMNS of the tiles of states [rows, elements], both powers of two."""
    columns = min(triton.next_power_of_2(max(1, elements)), _NUMBERS)
    return {
        "ROWS": min(triton.next_power_of_2(max(1, rows)), _NUMBERS // columns),
        "COLUMNS": columns,
    }


@triton.jit
def _number(pointer, row, exists):
    """Return one number for each row as a column, zero where there is no pointer."""
    if pointer is None:
        return tl.zeros([row.shape[0], 1], tl.float32)
    return tl.load(pointer + row, mask=exists, other=0.0)[:, None]


@triton.jit(do_not_specialize=["rows"])
def potential_kernel(
    h, y, weight, energy, cotangent, rows, elements, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Write energy [B] and cotangent [B, d] of h, y [B, d] and weight [B]."""
    # offsets exceed 32 bits in batches of more than 2^31 numbers
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = row < rows
    w = _number(weight, row, exists)
    # whole tiles add up, because a sum between threads at every step would cost more
    square = tl.zeros([ROWS, COLUMNS], tl.float64)
    inner = tl.zeros([ROWS, COLUMNS], tl.float64)
    for begin in range(0, elements, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)[None, :]
        at = row[:, None] * elements + column
        inside = exists[:, None] & (column < elements)
        ys = tl.load(y + at, mask=inside, other=0.0)
        hs = tl.load(h + at, mask=inside, other=0.0).to(tl.float64)
        tl.store(cotangent + at, w * ys, mask=inside)
        wide = ys.to(tl.float64)
        square += wide * wide
        inner += wide * hs
    total = 0.5 * tl.sum(square, 1)[:, None] - w.to(tl.float64) * tl.sum(inner, 1)[:, None]
    tl.store(energy + row[:, None], total.to(energy.dtype.element_ty), mask=exists[:, None])


@triton.jit(do_not_specialize=["rows"])
def backward_kernel(
    grad_energy,
    grad_cotangent,
    h,
    y,
    weight,
    to_h,
    to_y,
    to_weight,
    rows,
    elements,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """See `edmfast.ops.potential.reference.potential_backward`; absent cotangents are None."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = row < rows
    w, e = _number(weight, row, exists), _number(grad_energy, row, exists)
    ew = e * w
    inner = tl.zeros([ROWS, COLUMNS], tl.float64)
    moved = tl.zeros([ROWS, COLUMNS], tl.float64)
    for begin in range(0, elements, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)[None, :]
        at = row[:, None] * elements + column
        inside = exists[:, None] & (column < elements)
        ys = tl.load(y + at, mask=inside, other=0.0)
        hs = tl.load(h + at, mask=inside, other=0.0)
        slope = e * ys - ew * hs
        # an absent cotangent costs neither a tensor of zeros nor a read
        if grad_cotangent is not None:
            vs = tl.load(grad_cotangent + at, mask=inside, other=0.0)
            slope += w * vs
            moved += vs.to(tl.float64) * ys.to(tl.float64)
        tl.store(to_h + at, -ew * ys, mask=inside)
        tl.store(to_y + at, slope, mask=inside)
        inner += hs.to(tl.float64) * ys.to(tl.float64)
    total = tl.sum(moved, 1)[:, None] - e.to(tl.float64) * tl.sum(inner, 1)[:, None]
    tl.store(to_weight + row[:, None], total.to(to_weight.dtype.element_ty), mask=exists[:, None])


@triton.jit(do_not_specialize=["rows"])
def double_backward_kernel(
    a,
    b,
    c,
    grad_energy,
    grad_cotangent,
    h,
    y,
    weight,
    to_energy,
    to_cotangent,
    to_h,
    to_y,
    to_weight,
    rows,
    elements,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """See `edmfast.ops.potential.reference.potential_double_backward`."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = row < rows
    w, e = _number(weight, row, exists), _number(grad_energy, row, exists)
    cs = _number(c, row, exists)
    ew, ce = e * w, cs * e
    crossed = tl.zeros([ROWS, COLUMNS], tl.float64)
    along = tl.zeros([ROWS, COLUMNS], tl.float64)
    inner = tl.zeros([ROWS, COLUMNS], tl.float64)
    moved = tl.zeros([ROWS, COLUMNS], tl.float64)
    for begin in range(0, elements, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)[None, :]
        at = row[:, None] * elements + column
        inside = exists[:, None] & (column < elements)
        ys = tl.load(y + at, mask=inside, other=0.0)
        hs = tl.load(h + at, mask=inside, other=0.0)
        a_s = tl.load(a + at, mask=inside, other=0.0)
        b_s = tl.load(b + at, mask=inside, other=0.0)
        slope = e * b_s - ew * a_s - ce * hs
        b_wide, y_wide, h_wide = b_s.to(tl.float64), ys.to(tl.float64), hs.to(tl.float64)
        if grad_cotangent is not None:
            vs = tl.load(grad_cotangent + at, mask=inside, other=0.0)
            slope += cs * vs
            moved += b_wide * vs.to(tl.float64)
        tl.store(to_cotangent + at, w * b_s + cs * ys, mask=inside)
        tl.store(to_h + at, -ew * b_s - ce * ys, mask=inside)
        tl.store(to_y + at, slope, mask=inside)
        crossed += a_s.to(tl.float64) * y_wide + b_wide * h_wide
        along += b_wide * y_wide
        inner += h_wide * y_wide
    # the terms may nearly cancel, so they are combined before they are rounded to the dtype
    both = tl.sum(crossed, 1)[:, None]
    total = tl.sum(along, 1)[:, None] - w.to(tl.float64) * both
    total -= cs.to(tl.float64) * tl.sum(inner, 1)[:, None]
    number = row[:, None]
    tl.store(to_energy + number, total.to(to_energy.dtype.element_ty), mask=exists[:, None])
    total = tl.sum(moved, 1)[:, None] - e.to(tl.float64) * both
    tl.store(to_weight + number, total.to(to_weight.dtype.element_ty), mask=exists[:, None])


@triton.jit(do_not_specialize=["rows"])
def assemble_kernel(
    h, pullback, y, coefficients, out, rows, elements, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Write out [B, d] of h, pullback, y [B, d] and coefficients [B, 3]."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = row < rows
    c0 = _number(coefficients, 3 * row, exists)
    c1 = _number(coefficients, 3 * row + 1, exists)
    c2 = _number(coefficients, 3 * row + 2, exists)
    for begin in range(0, elements, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)[None, :]
        at = row[:, None] * elements + column
        inside = exists[:, None] & (column < elements)
        value = c0 * tl.load(h + at, mask=inside, other=0.0)
        value += c1 * tl.load(pullback + at, mask=inside, other=0.0)
        value += c2 * tl.load(y + at, mask=inside, other=0.0)
        tl.store(out + at, value, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def field_kernel(
    h,
    pullback,
    y,
    numbers,
    energy,
    out,
    rows,
    elements,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write energy [B] and out [B, d] of h, pullback, y [B, d] and numbers (w, c_0, c_1, c_2).

    The numbers of a row are STRIDE apart from those of the next: 4, or 0 where one set serves all rows.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = row < rows
    w = _number(numbers, STRIDE * row, exists)
    c0 = _number(numbers, STRIDE * row + 1, exists)
    c1 = _number(numbers, STRIDE * row + 2, exists)
    c2 = _number(numbers, STRIDE * row + 3, exists)
    square = tl.zeros([ROWS, COLUMNS], tl.float64)
    inner = tl.zeros([ROWS, COLUMNS], tl.float64)
    for begin in range(0, elements, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)[None, :]
        at = row[:, None] * elements + column
        inside = exists[:, None] & (column < elements)
        hs = tl.load(h + at, mask=inside, other=0.0)
        ps = tl.load(pullback + at, mask=inside, other=0.0)
        ys = tl.load(y + at, mask=inside, other=0.0)
        value = c0 * hs
        value += c1 * ps
        value += c2 * ys
        tl.store(out + at, value, mask=inside)
        wide = ys.to(tl.float64)
        square += wide * wide
        inner += wide * hs.to(tl.float64)
    total = 0.5 * tl.sum(square, 1)[:, None] - w.to(tl.float64) * tl.sum(inner, 1)[:, None]
    tl.store(energy + row[:, None], total.to(energy.dtype.element_ty), mask=exists[:, None])


@triton.jit(do_not_specialize=["rows"])
def assemble_backward_kernel(
    grad,
    h,
    pullback,
    y,
    coefficients,
    to_h,
    to_pullback,
    to_y,
    to_coefficients,
    rows,
    elements,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """See `edmfast.ops.potential.reference.potential_assemble_backward`."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = row < rows
    c0 = _number(coefficients, 3 * row, exists)
    c1 = _number(coefficients, 3 * row + 1, exists)
    c2 = _number(coefficients, 3 * row + 2, exists)
    along_h = tl.zeros([ROWS, COLUMNS], tl.float64)
    along_pullback = tl.zeros([ROWS, COLUMNS], tl.float64)
    along_y = tl.zeros([ROWS, COLUMNS], tl.float64)
    for begin in range(0, elements, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)[None, :]
        at = row[:, None] * elements + column
        inside = exists[:, None] & (column < elements)
        g = tl.load(grad + at, mask=inside, other=0.0)
        wide = g.to(tl.float64)
        along_h += wide * tl.load(h + at, mask=inside, other=0.0).to(tl.float64)
        along_pullback += wide * tl.load(pullback + at, mask=inside, other=0.0).to(tl.float64)
        along_y += wide * tl.load(y + at, mask=inside, other=0.0).to(tl.float64)
        tl.store(to_h + at, c0 * g, mask=inside)
        tl.store(to_pullback + at, c1 * g, mask=inside)
        tl.store(to_y + at, c2 * g, mask=inside)
    dtype: tl.constexpr = to_coefficients.dtype.element_ty
    target = to_coefficients + 3 * row[:, None]
    tl.store(target, tl.sum(along_h, 1)[:, None].to(dtype), mask=exists[:, None])
    tl.store(target + 1, tl.sum(along_pullback, 1)[:, None].to(dtype), mask=exists[:, None])
    tl.store(target + 2, tl.sum(along_y, 1)[:, None].to(dtype), mask=exists[:, None])
