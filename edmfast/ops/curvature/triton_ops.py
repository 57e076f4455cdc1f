"""Curvatures and the coefficients that follow them on a GPU by Triton, kernels and host side.

All arithmetic is float64 as in `edmfast.ops.curvature.reference`, with sums in another order.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from edmfast.ops._shared.triton_device import on_device_of
from edmfast.ops._shared.triton_tiling import tiling

WIDTH = 1024


@triton.jit(do_not_specialize=["exponent"])
def curvature_kernel(
    products,
    probes,
    exponents,
    exponent: tl.float64,
    out,
    particles,
    elements,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Take ROWS particles of one population in each program, COLUMNS elements at a time.

    products, probes [P, N, d]; exponents float64 [P] or None; out float64 [P, N].
    """
    row_tiles = tl.cdiv(particles, ROWS)
    population = (tl.program_id(0) // row_tiles).to(tl.int64)
    particle = (tl.program_id(0) % row_tiles) * ROWS + tl.arange(0, ROWS)
    exists = particle < particles
    row = population * particles + particle
    sums = tl.zeros([ROWS, COLUMNS], tl.float64)
    for begin in range(0, elements, COLUMNS):
        element = begin + tl.arange(0, COLUMNS)[None, :]
        inside = (element < elements) & exists[:, None]
        place = row[:, None] * elements + element
        product = tl.load(products + place, mask=inside, other=0.0).to(tl.float64)
        probe = tl.load(probes + place, mask=inside, other=0.0).to(tl.float64)
        sums += product * probe
    scale = tl.maximum(tl.cast(elements, tl.float64), 1.0)
    # A number that a branch gives alone would become float32.
    scale = scale * exponent if exponents is None else scale * tl.load(exponents + population)
    tl.store(out + row, tl.sum(sums, axis=1) / scale, mask=exists)


@triton.jit(do_not_specialize=["exponent"])
def matched_kernel(
    curvature,
    ancestors,
    exponents,
    exponent: tl.float64,
    levels,
    out,
    particles,
    WIDTH: tl.constexpr,
):
    """Write the coefficients of one population in each program; out float64 [P, 3]."""
    population = tl.program_id(0).to(tl.int64)
    curvature += population * particles
    ancestors += population * particles
    sums = tl.zeros([WIDTH], tl.float64)
    for begin in range(0, particles, WIDTH):
        slot = begin + tl.arange(0, WIDTH)
        exists = slot < particles
        ancestor = tl.load(ancestors + slot, mask=exists, other=0)
        named = (ancestor >= 0) & (ancestor < particles)
        value = tl.load(curvature + ancestor, mask=exists & named, other=0.0)
        sums += tl.where(exists & ~named, float("nan"), value)
    mean = tl.sum(sums, axis=0) / tl.cast(particles, tl.float64)
    s, u = tl.load(levels), tl.load(levels + 1)
    tau2 = s * s - u * u
    lowest = 0.5 * ((u / s) * (u / s))
    kappa = 1.0 + tau2 * mean
    # comparisons are false for NaN, which stays
    kappa = tl.where((kappa < lowest) | (lowest != lowest), lowest, kappa)
    kappa = tl.where(kappa > 1.0, 1.0, kappa)
    v_l = tau2 / exponent if exponents is None else tau2 / tl.load(exponents + population)
    tl.store(out + 3 * population, v_l)
    tl.store(out + 3 * population + 1, kappa * v_l)
    tl.store(out + 3 * population + 2, v_l)


def curvature(
    products: Tensor, probes: Tensor, exponents: Tensor | None, exponent: float
) -> Tensor:
    """See `edmfast.ops.curvature.reference.curvature`."""
    populations, particles, elements = products.shape
    out = products.new_empty((populations, particles), dtype=torch.float64)
    if out.numel() == 0:
        return out
    rows, columns, warps = tiling(particles, max(1, elements))
    with on_device_of(products):
        curvature_kernel[(populations * triton.cdiv(particles, rows),)](
            products.contiguous(),
            probes.contiguous(),
            None if exponents is None else exponents.contiguous(),
            exponent,
            out,
            particles,
            elements,
            ROWS=rows,
            COLUMNS=columns,
            num_warps=warps,
            enable_fp_fusion=False,
        )
    return out


def curvature_matched(
    curvature: Tensor,
    ancestors: Tensor,
    exponents: Tensor | None,
    exponent: float,
    levels: Tensor,
) -> Tensor:
    """See `edmfast.ops.curvature.reference.curvature_matched`."""
    populations, particles = curvature.shape
    out = curvature.new_empty((populations, 3))
    if out.numel() == 0:
        return out
    with on_device_of(curvature):
        matched_kernel[(populations,)](
            curvature.contiguous(),
            ancestors.contiguous(),
            None if exponents is None else exponents.contiguous(),
            exponent,
            levels.contiguous(),
            out,
            particles,
            WIDTH=WIDTH,
            num_warps=8,
            enable_fp_fusion=False,
        )
    return out
