"""A matrix product on the CPU in which a row has the same bits wherever it is in the batch, beside any other rows.

Matrix libraries sum a row in another order where its start is not aligned to 16 bytes, so the bits of rows of 17
numbers would depend on a sample's place. Rows are therefore padded with zeros to a multiple of four numbers. Both
sides of the matrix are padded, because the backward pass multiplies by it from the other side. Rows of one or two
numbers have no second order of summation.

The libraries also divide a product among threads, in a way that depends on the number of rows. With few rows a
thread gets so few that it uses another kernel for them. With several threads, products are therefore padded to as
many rows as have the bits of any larger number (measured with MKL at 1 to 16 threads). The bits may still depend
on the number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edmfast._internal.rows import is_unpadded

# These numbers were measured with MKL at 1 to 16 threads.
_ROWS, _MANY_ROWS, _MANY_THREADS = 128, 512, 12


def padding(features: int) -> int:
    """Return the number of zeros by which rows of so many numbers are padded."""
    # Four float32 numbers fill 16 bytes. A sum of one or two numbers has a single order.
    return 0 if features <= 2 else -features % 4


def aligned(rows: Tensor, columns: int, more: int = 0) -> Tensor:
    """Return rows [B, D] with so many further columns, and `more` further rows, of zeros on the CPU.

    On other devices the rows are returned as they are.
    """
    if rows.device.type != "cpu" or not (columns or more):
        return rows
    return F.pad(rows, (0, columns, 0, more))


def least_rows(dtype: torch.dtype) -> int:
    """Return the number of rows from which on the bits of a product of this dtype do not depend on that number."""
    # A trace has symbols for sizes, and its bits need not be those of another batch.
    if torch.compiler.is_compiling() or is_unpadded():
        return 0
    threads = torch.get_num_threads()
    if dtype == torch.float64:
        return 0 if threads < 2 else _ROWS if threads <= _MANY_THREADS else _MANY_ROWS
    return 0 if threads <= 2 else _ROWS


def batch_invariant_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x [..., D] times the transpose of weight [M, D], plus bias [M], as [..., M]."""
    # The padding answers to CPU libraries; elsewhere it would only cost work.
    if x.device.type != "cpu":
        return F.linear(x, weight, bias)
    outputs, features = weight.shape
    more_inputs, more_outputs = padding(features), padding(outputs)
    if more_inputs or more_outputs:
        weight = F.pad(weight, (0, more_inputs, 0, more_outputs))
        bias = None if bias is None else F.pad(bias, (0, more_outputs))
        x = F.pad(x, (0, more_inputs))
    rows = _missing_rows(x)
    if rows == 0:
        return F.linear(x, weight, bias)[..., :outputs]
    product = F.linear(F.pad(x.reshape(-1, x.shape[-1]), (0, 0, 0, rows)), weight, bias)
    return product[: len(product) - rows, :outputs].reshape(*x.shape[:-1], outputs)


def _missing_rows(x: Tensor) -> int:
    least = least_rows(x.dtype)
    return 0 if least == 0 or x.numel() == 0 else max(0, least - x.numel() // x.shape[-1])
