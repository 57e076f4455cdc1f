"""Small CPU batches padded, so that a row's bits do not depend on how many rows there are.

Matrix libraries switch kernels for a handful of rows, which changes the order of summation: the
same sample alone and in a batch of 1,000 would differ in the last bits. From 32 rows on the
result of a row no longer depends on the batch. Rows are padded by repeating the last one.
"""

from __future__ import annotations

from typing import Any

import torch

MIN_ROWS = 32


def _repeat_last(rows: torch.Tensor, missing: int) -> torch.Tensor:
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])


def pad_rows(
    x: torch.Tensor, levels: torch.Tensor, condition: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """x [B, *shape], levels [B, 1, ...] and conditions, with at least 32 rows on the CPU.

    Condition tensors whose first dimension is B are padded too; everything else passes through.
    The caller slices the results back to B rows. Empty batches and other devices are left alone.
    """
    batch = x.shape[0]
    missing = MIN_ROWS - batch
    if x.device.type != "cpu" or missing <= 0 or batch == 0:
        return x, levels, condition
    padded = {
        name: _repeat_last(value, missing)
        if isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[0] == batch
        else value
        for name, value in condition.items()
    }
    return _repeat_last(x, missing), _repeat_last(levels, missing), padded
