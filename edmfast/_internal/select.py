"""Rows of a tensor by their indices, copied whole, which is many times faster than torch's general indexing."""

from __future__ import annotations

from torch import Tensor


def rows_of(tensor: Tensor, index: Tensor) -> Tensor:
    """Return the rows tensor[index] of a tensor [n, *shape], for an index int64 [k], without a derivative.

    Rows that lie in memory with their second axis last, as images with channels last do, keep that order.
    """
    if tensor.dim() > 2 and not tensor.is_contiguous():
        turned = tensor.movedim(1, -1)
        if turned.is_contiguous():
            return turned.index_select(0, index).movedim(-1, 1)
    return tensor.index_select(0, index)
