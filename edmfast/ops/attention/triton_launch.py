"""Host side: the sizes of the blocks of attention's kernels, and the launch of the kernels.

The sizes are the largest that spill no register and that fit the 99 KB of shared memory of sm_86 and sm_89, or the
227 KB of sm_90; `python -m bench.gpu.compile_report` lists both. Half precisions have sizes of their own on Hopper
(sm_90), whose matrix instruction (wgmma) works for four warps on 64 rows. The sizes leave room for two programs of
four warps or more on a multiprocessor, so that one computes exponentials while another multiplies. Programs of
eight warps would read less from the cache, but Triton 3.9 puts a barrier after each of their products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from edmfast.ops._shared.triton_device import on_device_of
from edmfast.ops._shared.triton_precision import precision


class Blocks(NamedTuple):
    """The sizes of a tile of scores and the options of its launch.

    columns: how many columns of a head's tiles are held at a time. Where the head is wider, every product loads
    the tiles again, from the cache.
    """

    queries: int
    keys: int
    warps: int
    stages: int = 1
    columns: int = 128


# a row of a table below has an entry for heads of up to 16, 32, 64 and 128 columns
_WIDTHS = (16, 32, 64, 128)
_HALF = {
    "forward": ((128, 64, 4, 3), (128, 64, 4, 3), (128, 64, 8, 3), (128, 64, 8, 2)),
    "jvp": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 16, 8, 2), (64, 32, 8, 1, 64)),
    "query_gradient": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (128, 32, 8, 2)),
    "key_gradients": ((64, 128, 8, 2), (64, 128, 8, 2), (32, 128, 8, 2), (32, 64, 8, 2)),
    "row_sums": ((128, 64, 8), (128, 32, 8, 2), (128, 32, 8, 2), (64, 64, 8, 1, 64)),
    "query_second": ((128, 64, 8), (128, 32, 8), (32, 64, 4, 2), (32, 32, 4, 1, 64)),
    "key_second": ((64, 128, 8), (32, 128, 8), (16, 64, 4, 2), (32, 64, 8, 1, 32)),
}
_HOPPER = {
    "forward": ((128, 64, 4, 3), (128, 64, 4, 3), (128, 64, 4, 3), (128, 64, 8, 2)),
    "jvp": ((64, 64, 4, 2), (64, 64, 4, 2), (64, 32, 4, 2), (64, 32, 4, 1, 64)),
    "query_gradient": ((128, 64, 4, 2), (128, 64, 4, 2), (128, 32, 4, 2), (64, 64, 4, 2)),
    "key_gradients": ((64, 64, 4, 2), (64, 64, 4, 2), (32, 64, 4, 2), (32, 64, 4, 1)),
    "row_sums": ((64, 64, 4, 2), (64, 64, 4, 2), (64, 32, 4, 2), (64, 32, 4, 2)),
    "query_second": ((64, 32, 4, 2), (64, 32, 4, 2), (64, 32, 4, 2), (32, 32, 4, 1, 64)),
    "key_second": ((32, 64, 4, 2), (32, 64, 4, 2), (32, 64, 4, 2), (32, 64, 8, 1, 32)),
}
_SINGLE = {
    "forward": ((128, 64, 8), (128, 64, 8), (128, 32, 8), (64, 32, 8, 1, 16)),
    "jvp": ((32, 32, 4), (64, 16, 8, 1, 16), (32, 32, 8, 1, 16), (32, 16, 8, 1, 32)),
    "query_gradient": ((128, 32, 8), (128, 64, 8, 1, 16), (128, 32, 8, 1, 16), (64, 32, 8, 1, 16)),
    "key_gradients": ((32, 128, 4), (32, 128, 8, 1, 16), (64, 32, 8, 1, 16), (64, 32, 8, 1, 16)),
    "row_sums": ((128, 32, 8), (128, 64, 8, 1, 16), (128, 32, 8, 1, 16), (128, 32, 8, 1, 16)),
    "query_second": ((32, 16, 4), (64, 32, 8, 1, 16), (32, 64, 8, 1, 16), (32, 16, 8, 1, 32)),
    "key_second": ((16, 64, 4), (32, 64, 4, 1, 16), (64, 32, 8, 1, 16), (32, 16, 4, 1, 16)),
}


def blocks(kernel: str, dtype: torch.dtype, width: int, capability: int) -> Blocks:
    """Return the blocks of a kernel for heads of a padded width, on a compute capability such as 90."""
    table = _SINGLE if dtype == torch.float32 else _HOPPER if capability == 90 else _HALF
    return Blocks(*table[kernel][_WIDTHS.index(width)])


def configuration(
    kernel: str, dtype: torch.dtype, d: int, e: int, causal: bool, unit: int, capability: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (constants of a kernel, options of its compilation) for heads of d and e columns.

    unit: the number of elements in which strides are given, see `launch`. capability: such as 90.
    """
    # tl.dot needs at least 16 columns, and tiles have powers of two
    padded_d, padded_e = (max(16, triton.next_power_of_2(width)) for width in (d, e))
    chosen = blocks(kernel, dtype, max(padded_d, padded_e), capability)
    constants = {
        "D": d,
        "E": e,
        "PADDED_D": padded_d,
        "PADDED_E": padded_e,
        "CAUSAL": causal,
        "PRECISION": precision(dtype),
        "QUERIES": chosen.queries,
        "KEYS": chosen.keys,
        "CHUNK": chosen.columns,
        "UNIT": unit,
    }
    # no bits are promised between devices here, so fused multiply-adds are welcome
    options = {"num_warps": chosen.warps, "num_stages": chosen.stages, "enable_fp_fusion": True}
    return constants, options


def _capability() -> int:
    """Return the compute capability of the current GPU, such as 90; 80 where kernels are interpreted."""
    if triton.knobs.runtime.interpret:
        return 80
    target: int = triton.runtime.driver.active.get_current_target().arch
    return target


def _strided(tensor: Tensor | None, unit: int) -> tuple[Any, ...] | None:
    """Return (tensor, *strides); of four dimensions all strides but the last are in units."""
    if tensor is None or tensor.dim() < 4:
        return None if tensor is None else (tensor, *tensor.stride())
    *outer, last = tensor.stride()
    return (tensor, *(stride // unit for stride in outer), last)


def launch(
    kernel: Any,
    tensors: Sequence[Tensor | None],
    q: Tensor,
    v: Tensor,
    scale: float,
    causal: bool,
) -> None:
    """Launch a kernel with one program for each block of keys or queries of each head, as its name says.

    Strides are passed in units of 16 bytes where all of them are multiples. The compiler then knows that it can
    load 16 bytes at once.
    """
    name = kernel.__name__.removesuffix("_kernel")
    outer = [s for t in tensors if t is not None and t.dim() == 4 for s in t.stride()[:3]]
    unit = math.gcd(16 // q.itemsize, *outer)
    (batch, heads, queries), keys = q.shape[:3], v.shape[2]
    by_keys = name.startswith("key")
    if batch * heads * (keys if by_keys else queries) == 0:
        return
    widths = q.shape[3], v.shape[3]
    operands = [_strided(tensor, unit) for tensor in tensors]
    with on_device_of(q):
        constants, options = configuration(name, q.dtype, *widths, causal, unit, _capability())
        blocks_of_head = (
            triton.cdiv(keys, constants["KEYS"])
            if by_keys
            else triton.cdiv(queries, constants["QUERIES"])
        )
        kernel[(batch * heads * blocks_of_head,)](
            *operands, scale, heads, queries, keys, **constants, **options
        )
