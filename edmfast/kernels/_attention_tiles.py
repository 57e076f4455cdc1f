"""Tiles of attention: where a program works, what it loads, which scores count, how large its blocks are.

A tensor comes to a kernel as a tuple of its pointer and its strides, so no view is copied; addresses are
int64. `query` and `key` are positions, one of them a column and the other a row of a tile of scores.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def place(length, heads, BLOCK: tl.constexpr):
    """(batch, head, first position) of a program; the blocks of one head follow each other."""
    blocks = tl.cdiv(length, BLOCK)
    head = tl.program_id(0) // blocks
    first = tl.program_id(0) % blocks * BLOCK
    return (head // heads).to(tl.int64), (head % heads).to(tl.int64), first


@triton.jit
def _address(tensor, batch, head, position, PADDED: tl.constexpr):
    columns = tl.arange(0, PADDED).to(tl.int64)[None, :] * tensor[4]
    rows = position.to(tl.int64)[:, None] * tensor[3]
    return tensor[0] + (batch * tensor[1] + head * tensor[2]) + rows + columns


@triton.jit
def _inside(position, length, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    inside = (position < length)[:, None]
    if WIDTH < PADDED:
        inside = inside & (tl.arange(0, PADDED) < WIDTH)[None, :]
    return inside


@triton.jit
def load(tensor, batch, head, position, length, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """[positions, PADDED], 0 outside of [length, WIDTH]."""
    address = _address(tensor, batch, head, position, PADDED)
    return tl.load(address, mask=_inside(position, length, WIDTH, PADDED), other=0.0)


@triton.jit
def store(tensor, value, batch, head, position, length, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    address = _address(tensor, batch, head, position, PADDED)
    value = value.to(tensor[0].dtype.element_ty)
    tl.store(address, value, mask=_inside(position, length, WIDTH, PADDED))


@triton.jit
def load_row(tensor, batch, head, position, length):
    """[positions] of a tensor [B, H, length], 0 outside."""
    address = tensor[0] + (batch * tensor[1] + head * tensor[2]) + position.to(tl.int64) * tensor[3]
    return tl.load(address, mask=position < length, other=0.0)


@triton.jit
def store_row(tensor, value, batch, head, position, length):
    address = tensor[0] + (batch * tensor[1] + head * tensor[2]) + position.to(tl.int64) * tensor[3]
    tl.store(address, value, mask=position < length)


@triton.jit
def load_lse(lse, batch, head, position, length):
    """Times log₂ e; inf for a row without keys, whose probabilities are then 0."""
    row = load_row(lse, batch, head, position, length)
    return tl.where(row == float("-inf"), float("inf"), row) * LOG2E


@triton.jit
def attended(mask, batch, query, key, queries, keys, CAUSAL: tl.constexpr):
    """Which scores of a tile count; `mask` is a bool tensor [B, M] or None."""
    counts = (query < queries) & (key < keys)
    if mask is not None:
        address = mask[0] + batch * mask[1] + key.to(tl.int64) * mask[2]
        counts = counts & (tl.load(address, mask=key < keys, other=0) != 0)
    if CAUSAL:
        counts = counts & (key <= query)
    return counts


@triton.jit
def product(x, y, PRECISION: tl.constexpr):
    """x yᵀ in float32."""
    return tl.dot(x, y.T, input_precision=PRECISION)


@triton.jit
def accumulate(total, x, y, PRECISION: tl.constexpr):
    """total + x y, x rounded to the precision of y."""
    return tl.dot(x.to(y.dtype), y, total, input_precision=PRECISION)


@triton.jit
def probabilities(scores, lse, counts):
    """exp(scores - lse) where the scores count, both of them times log₂ e; else 0."""
    return tl.where(counts, tl.exp2(scores - lse), 0.0)


def strided(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor, *tensor.stride())


def precision(dtype: torch.dtype) -> str:
    """Of products: what torch's own matrix products use for float32; half precisions have one way."""
    asked = torch.backends.cuda.matmul.fp32_precision
    return "tf32" if dtype == torch.float32 and asked == "tf32" else "ieee"


def padded(width: int) -> int:
    return max(16, triton.next_power_of_2(width))
