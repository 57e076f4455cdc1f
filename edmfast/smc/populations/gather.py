"""Read particles through their ancestors."""

from __future__ import annotations

from torch import Tensor


def take(values: Tensor, index: Tensor) -> Tensor:
    """Return the rows of values [P, N, ...] that index [P, M], of any integer type, names: [P, M, ...]."""
    # Ancestors are int32 to save memory, and torch gathers by int64 only.
    index = index.long()
    if values.dim() == 2:
        return values.gather(1, index)
    # one flat axis of elements, so that the index is expanded along a single dimension
    rows = values.flatten(2)
    # An expanded index takes no memory.
    rows = rows.gather(1, index[:, :, None].expand(*index.shape, rows.shape[2]))
    return rows.reshape(*index.shape, *values.shape[2:])
