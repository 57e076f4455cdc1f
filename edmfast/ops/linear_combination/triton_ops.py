"""Linear combinations on a GPU by Triton, with the bits of the reference: kernels and host side."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from edmfast.ops._shared.triton_device import on_device_of
from edmfast.ops._shared.triton_philox import normals_of, stream_word
from edmfast.ops._shared.triton_tiling import tiling
from edmfast.ops.linear_combination.reference import keeps_layout

BLOCK = 1024


@triton.jit
def _sum_of_terms(tensors, coefficients, at, inside, TERMS: tl.constexpr, DTYPE: tl.constexpr):
    """Return sum_k c_k t_k at the elements `at`, in the dtype of the arithmetic."""
    total = tl.load(tensors[0] + at, mask=inside, other=0.0).to(DTYPE)
    total = tl.load(coefficients).to(DTYPE) * total
    for k in tl.static_range(1, TERMS):
        value = tl.load(tensors[k] + at, mask=inside, other=0.0).to(DTYPE)
        total = total + tl.load(coefficients + k).to(DTYPE) * value
    return total


@triton.jit
def sum_kernel(
    out,
    tensors,
    coefficients,
    elements,
    TERMS: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Combine BLOCK elements of flat arrays in each program; tensors: a tuple; coefficients float64 [TERMS]."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < elements
    total = _sum_of_terms(tensors, coefficients, at, inside, TERMS, DTYPE)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["stream", "first_sample", "nodes_count"])
def noisy_kernel(
    out,
    tensors,
    coefficients,
    seeds,
    nodes,
    weights,
    stream,
    first_sample,
    nodes_count,
    samples,
    elements,
    TERMS: tl.constexpr,
    EACH: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Combine ROWS samples by COLUMNS counters of contiguous tensors [B, d] in each program, and add noise.

    seeds int64 [1], or [B] where EACH is true; nodes int64 and weights float64 [nodes_count].
    """
    blocks = (elements + 3) // 4
    block_tiles = tl.cdiv(blocks, COLUMNS)
    block = (tl.program_id(0) % block_tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    row = (tl.program_id(0) // block_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    exists = row < samples
    start = row * elements
    if EACH:
        seed = tl.load(seeds + row, mask=exists, other=0)
        particle = row * 0
    else:
        seed = tl.load(seeds)
        particle = row + first_sample
    e0, e1, e2, e3 = block, blocks + block, 2 * blocks + block, 3 * blocks + block
    m0 = exists & (block < blocks) & (e0 < elements)
    m1 = exists & (block < blocks) & (e1 < elements)
    m2 = exists & (block < blocks) & (e2 < elements)
    m3 = exists & (block < blocks) & (e3 < elements)
    s0 = _sum_of_terms(tensors, coefficients, start + e0, m0, TERMS, DTYPE)
    s1 = _sum_of_terms(tensors, coefficients, start + e1, m1, TERMS, DTYPE)
    s2 = _sum_of_terms(tensors, coefficients, start + e2, m2, TERMS, DTYPE)
    s3 = _sum_of_terms(tensors, coefficients, start + e3, m3, TERMS, DTYPE)
    for m in range(nodes_count):
        node = tl.load(nodes + m)
        weight = tl.load(weights + m).to(DTYPE)
        word = stream_word(stream, (node >> 32) & 0xFFFFFFF)
        z0, z1, z2, z3 = normals_of(block, node, particle, word, seed)
        s0 += weight * z0.to(DTYPE)
        s1 += weight * z1.to(DTYPE)
        s2 += weight * z2.to(DTYPE)
        s3 += weight * z3.to(DTYPE)
    tl.store(out + start + e0, s0.to(out.dtype.element_ty), mask=m0)
    tl.store(out + start + e1, s1.to(out.dtype.element_ty), mask=m1)
    tl.store(out + start + e2, s2.to(out.dtype.element_ty), mask=m2)
    tl.store(out + start + e3, s3.to(out.dtype.element_ty), mask=m3)


def linear_combination(
    tensors: Sequence[Tensor],
    coefficients: Tensor,
    seeds: Tensor | None,
    nodes: Tensor | None,
    weights: Tensor | None,
    stream: int,
    first_sample: int,
) -> Tensor:
    """See `edmfast.ops.linear_combination.reference.linear_combination`."""
    noisy = seeds is not None and nodes is not None and weights is not None
    if keeps_layout(tensors, noisy):
        out = torch.empty_like(tensors[0])
    else:
        tensors = [tensor.contiguous() for tensor in tensors]
        out = torch.empty_like(tensors[0])
    if out.numel() == 0:
        return out
    double = out.dtype == torch.float64
    options = {
        "TERMS": len(tensors),
        "DTYPE": tl.float64 if double else tl.float32,
        "enable_fp_fusion": False,
    }
    with on_device_of(out):
        if seeds is None or nodes is None or weights is None:
            elements = out.numel()
            sum_kernel[(triton.cdiv(elements, BLOCK),)](
                out, tuple(tensors), coefficients.contiguous(), elements, BLOCK=BLOCK, **options
            )
            return out
        samples, elements = out.shape[0], out[0].numel()
        rows, columns, warps = tiling(samples, (elements + 3) // 4)
        tiles = triton.cdiv(samples, rows) * triton.cdiv((elements + 3) // 4, columns)
        noisy_kernel[(tiles,)](
            out,
            tuple(tensors),
            coefficients.contiguous(),
            seeds.contiguous(),
            nodes.contiguous(),
            weights.contiguous(),
            stream,
            first_sample,
            nodes.shape[0],
            samples,
            elements,
            EACH=seeds.shape[0] != 1,
            ROWS=rows,
            COLUMNS=columns,
            num_warps=warps,
            **options,
        )
    return out
