"""Host side: the precision of matrix products in Triton kernels."""

from __future__ import annotations

import torch


def precision(dtype: torch.dtype) -> str:
    """Return the `input_precision` of `tl.dot` for operands of a dtype.

    Products of float32 use TF32 where torch's own matrix products do. Elsewhere they use three TF32 products,
    of the high and the low parts, which lose two bits of float32. Products without tensor cores ("ieee") would
    be exact, but they spill registers at every useful size of a tile. Half precisions have only one way.
    """
    if dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"
