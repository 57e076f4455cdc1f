"""Sizes of the blocks of attention's kernels, and their launch.

The largest blocks that spill no register on sm_80 and sm_90 and fit the 99 KB of shared memory that
sm_86 and sm_89 have; `python -m bench.compile_report` lists both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from edmfast.kernels._attention_tiles import padded, precision


class Blocks(NamedTuple):
    queries: int
    keys: int
    warps: int
    stages: int
    chunk: int = 128


def blocks(kernel: str, bytes_per_number: int, width: int) -> Blocks:
    return Blocks(64, 64, 4, 1)


def configuration(
    kernel: str, dtype: torch.dtype, d: int, e: int, causal: bool
) -> tuple[dict[str, Any], dict[str, int]]:
    """(constants of a kernel, options of its compilation)."""
    sizes = padded(d), padded(e)
    chosen = blocks(kernel, dtype.itemsize, max(sizes))
    constants = {
        "D": d,
        "E": e,
        "PADDED_D": sizes[0],
        "PADDED_E": sizes[1],
        "CAUSAL": causal,
        "PRECISION": precision(dtype),
        "QUERIES": chosen.queries,
        "KEYS": chosen.keys,
        "CHUNK": chosen.chunk,
    }
    return constants, {"num_warps": chosen.warps, "num_stages": chosen.stages}


def launch(
    kernel: Any, q: Tensor, v: Tensor, tensors: tuple[Any, ...], scale: float, causal: bool
) -> None:
    """A program for every block of keys of a head where the kernel's name says so, else of queries."""
    name = kernel.__name__.removesuffix("_kernel")
    constants, options = configuration(name, q.dtype, q.shape[3], v.shape[3], causal)
    (batch, heads, queries), keys = q.shape[:3], v.shape[2]
    if name.startswith("key"):
        programs = batch * heads * triton.cdiv(keys, constants["KEYS"])
    else:
        programs = batch * heads * triton.cdiv(queries, constants["QUERIES"])
    if programs:
        with torch.cuda.device_of(q):
            kernel[(programs,)](*tensors, scale, heads, queries, keys, **constants, **options)
