"""A model on a part of a batch: its conditions split, its bits those of the whole batch.

Matrix libraries switch kernels for a handful of rows, and for the rows left over from tiles of 4
to 12, which changes the order of summation: the same sample alone and in a batch of 1,000 would
differ in the last bits. Batches padded to a multiple of 16, and 32 at least, have no such rows
(measured with MKL on Intel and AMD). They are padded by repeating the last row.
"""

from __future__ import annotations

from typing import Any

import torch

MIN_ROWS, ROW_TILE = 32, 16


def for_rows(target: Any, start: int, stop: int, batch: int) -> Any:
    """The target for samples start..stop - 1 of a batch: itself, unless it holds conditions."""
    split = getattr(target, "for_rows", None)
    return target if split is None else split(start, stop, batch)


def _repeat_last(rows: torch.Tensor, missing: int) -> torch.Tensor:
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])


def pad_rows(
    x: torch.Tensor, levels: torch.Tensor, condition: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """x [B, *shape], levels [B, 1, ...] and conditions, with 32, 48, 64, … rows on the CPU.

    Condition tensors whose first dimension is B are padded too; everything else passes through.
    The caller slices the results back to B rows. Empty batches and other devices are left alone.
    """
    batch = x.shape[0]
    missing = max(MIN_ROWS - batch, -batch % ROW_TILE)
    if x.device.type != "cpu" or missing == 0 or batch == 0:
        return x, levels, condition
    padded = {
        name: _repeat_last(value, missing)
        if isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[0] == batch
        else value
        for name, value in condition.items()
    }
    return _repeat_last(x, missing), _repeat_last(levels, missing), padded
