"""Operators on the meta device at sizes that tests choose, by the launch code of their Triton kernels."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64
I32, I64, BOOL = torch.int32, torch.int64, torch.bool


def _empty(*shape: int, dtype: torch.dtype = F32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def _module(folder: str) -> Any:
    return importlib.import_module(f"edmfast.ops.{folder}.triton_ops")


def attention(
    batch: int = 2,
    length: int = 64,
    keys: int | None = None,
    heads: int = 8,
    width: int = 64,
    dtype: torch.dtype = BF16,
    causal: bool = False,
) -> None:
    """Launch all orders of attention and its forward mode, on views as networks make them."""

    def view(positions: int) -> Tensor:
        return _empty(batch, positions, heads, width, dtype=dtype).transpose(1, 2)

    ops, q, k = _module("attention"), view(length), view(length if keys is None else keys)
    options = None, 0.125, causal
    out, lse = ops.attention(q, k, k, *options)
    ops.attention_backward(out, q, k, k, out, lse, *options)
    ops.attention_double_backward(q, k, k, out, q, k, k, out, lse, *options)
    ops.attention_jvp(q, k, k, q, k, k, *options)


def norms(
    batch: int = 2,
    channels: int = 128,
    positions: int = 256,
    groups: int = 8,
    own: bool = False,
    last: bool = False,
    dtype: torch.dtype = F32,
) -> None:
    """Launch all orders of a norm; own: a scale for each row; last: channels are fastest in memory."""
    ops = _module("norms")
    x = _empty(batch, channels, positions, dtype=dtype)
    x = _empty(batch, positions, channels, dtype=dtype).mT if last else x
    scale = _empty(batch if own else 1, channels, dtype=F64 if dtype == F64 else F32)
    y, mean, rstd = ops.group_norm_silu(x, scale, scale, groups, 1e-5, True, True)
    rest = y, x, scale, scale, mean, rstd, True, True
    ops.group_norm_silu_backward(*rest)
    ops.group_norm_silu_double_backward(y, scale, scale, *rest)


def potential(batch: int = 5, elements: int = 768) -> None:
    """Launch the potential, its derivatives, and the assembly of scores."""
    ops, y, w = _module("potential"), _empty(batch, elements), _empty(batch)
    numbers = _empty(batch, 3)
    ops.potential(y, y, w)
    ops.potential_backward(w, y, y, y, w)
    ops.potential_double_backward(y, y, w, w, y, y, y, w)
    ops.potential_assemble(y, y, y, numbers)
    for rows in (batch, 1):
        ops.potential_field(y, y, y, _empty(rows, 4))
    ops.potential_assemble_backward(y, y, y, y, numbers)


def mlp_potential(
    batch: int = 5,
    width: int = 128,
    depth: int = 4,
    elements: int = 2,
    models: int = 1,
    rows: bool = False,
    dtype: torch.dtype = F32,
) -> None:
    """Launch perceptrons and their derivative; rows: coefficients and shifts of each row."""
    ops, own = _module("mlp_potential"), batch if rows else 1
    x, numbers = _empty(batch, elements), _empty(models, own, 4)
    shapes = (own, depth * width), (width, elements), (width,)
    first = [[_empty(*shape, dtype=dtype)] * models for shape in shapes]
    layers = [_empty(width, width, dtype=dtype)] * (models * depth)
    last = [[_empty(*s, dtype=dtype)] * models for s in ((elements, width), (elements,))]
    rest = x, numbers, *first, layers, *last
    ops.mlp_potential(*rest, False)
    for inputs, weights in ((True, False), (False, True)):
        cotangents = _empty(models, batch), _empty(models, batch, elements)
        ops.mlp_potential_backward(*cotangents, *rest, _empty(0), inputs, weights)


def noise(particles: int = 5, populations: int = 1, elements: int = 3072) -> None:
    """Launch the normals."""
    like = _empty(populations, particles, elements)
    _module("noise").noise(like, _empty(2, dtype=I64), 0, 0, 0)


def propagate(
    particles: int = 5, populations: int = 1, elements: int = 3072, each: bool = False
) -> None:
    """Launch the proposal step; each: coefficients of each particle."""
    p, n = populations, particles
    x, numbers = _empty(p, n, elements), _empty(*((p, n, 3) if each else (p, 3)), dtype=F64)
    ancestors, rng = _empty(p, n, dtype=I32), _empty(2, dtype=I64)
    mask = _empty(p, elements, dtype=BOOL)
    _module("propagate").propagate(x, [x], ancestors, numbers, rng, mask, 0, 0)


def reversal(
    particles: int = 5, populations: int = 1, elements: int = 3072, probes: int = 1
) -> None:
    """Launch the reversal's proposals of two scores, from probes or, where there are none, from traces."""
    p, n, d = populations, particles, elements
    scores, powers, levels = (
        [_empty(p, n, d)] * 2,
        _empty(p, 2, dtype=F64),
        _empty(2, dtype=F64),
    )
    traces = None if probes else _empty(2, p, n, dtype=F64)
    along = _empty(p, n, probes, d) if probes else None
    products = [] if along is None else [along] * 2
    _module("reversal").reversal(scores, powers, levels, traces, products, along)


def systematic_resample(particles: int = 5, populations: int = 1) -> None:
    """Launch the systematic resampling."""
    uniform = _empty(populations, dtype=F64)
    ops = _module("systematic_resample")
    ops.systematic_resample(_empty(populations, particles), uniform, 0.5)


def weigh(particles: int = 5, populations: int = 1) -> None:
    """Launch the weights of a step of two models, and the resampling."""

    def of(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        one = _empty(populations, dtype=dtype)
        return _empty(populations, particles, dtype=dtype), one

    (weights, log_z), (ancestors, flags) = of(F64), of(I32)
    resampled, energy = of(BOOL)[1], of(F32)[0]
    state = weights, log_z, ancestors, ancestors, resampled, flags
    powers, rng = _empty(populations, 2, dtype=F64), _empty(2, dtype=I64)
    numbers = energy, [energy] * 2, [energy] * 2, powers, rng, True, 0.5, 0, 0
    _module("weigh").weigh_and_resample(*state, *numbers)
