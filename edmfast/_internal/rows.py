"""Rows of a batch: padding that keeps the bits of every sample, and models and conditions for a part of a batch.

Matrix libraries switch kernels for a handful of rows, and for the rows left over from tiles of 4 to 12, which
changes the order of summation: the same sample alone and in a batch of 1,000 would differ in the last bits.
Batches padded to a multiple of 16, and to at least 32, have no such rows (measured with MKL on Intel and AMD).
They are padded by repeating the last row.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from edmfast._internal.nested import with_tensors

MIN_ROWS, ROW_TILE = 32, 16
_thread = threading.local()


@contextlib.contextmanager
def unpadded() -> Iterator[None]:
    """Leave batches as they are within the block.

    Training needs no padding, because the bits of one sample do not matter there, and traces cannot have it,
    because their batch size may be a symbol.
    """
    before = getattr(_thread, "unpadded", False)
    _thread.unpadded = True
    try:
        yield
    finally:
        _thread.unpadded = before


def is_unpadded() -> bool:
    """Return whether batches are left as they are, because the code runs within `unpadded`."""
    return getattr(_thread, "unpadded", False)


def for_rows(target: Any, start: int, stop: int, batch: int) -> Any:
    """Return the target for the samples start to stop - 1 of a batch. It is the target itself unless it holds
    numbers for single rows."""
    split = getattr(target, "for_rows", None)
    return target if split is None else split(start, stop, batch)


def spread_rows(name: str, value: Any, start: int, stop: int, batch: int) -> Any:
    """Return the rows of a tensor [K, ...] for the samples start to stop - 1, where each row serves batch/K
    samples.

    A value without rows is returned as it is. name: what the error calls it. Raises ValueError unless K divides
    the batch.
    """
    if not isinstance(value, torch.Tensor) or value.dim() == 0:
        return value
    if len(value) == batch == 0:
        return value
    if len(value) == 0 or batch % len(value):
        raise ValueError(f"{name} has {len(value)} rows, which do not divide a batch of {batch}")
    # An index made on the device needs no read of it.
    return value[torch.arange(start, stop, device=value.device) // (batch // len(value))]


def part_of(module: Any) -> Any:
    """Return a shallow copy of a module whose members, buffers and attributes can be replaced for a part of the
    batch.

    The checks of its constructor are not repeated.
    """
    kind: Any = type(module)
    # copy.copy would share the dictionaries of a module, and a member set on the copy would change
    # both.
    part: Any = kind.__new__(kind)
    part.__dict__.update(module.__dict__)
    if isinstance(module, nn.Module):
        for members in ("_parameters", "_buffers", "_modules"):
            part.__dict__[members] = dict(module.__dict__[members])
    return part


def _repeat_last(rows: torch.Tensor, missing: int) -> torch.Tensor:
    # A repeated row is a valid state, where zeros could be outside a model's domain.
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])


def shared_rows(row: torch.Tensor) -> torch.Tensor:
    """Return numbers [1, ...] that all samples share, repeated to enough rows to have the bits of any batch."""
    alone = row.device.type != "cpu" or row.shape[0] == 0
    return row if alone else row.expand(MIN_ROWS, *row.shape[1:]).contiguous()


def per_sample(rows: torch.Tensor, batch: int) -> torch.Tensor:
    """Return rows that were computed from `shared_rows` as one row, and one row per sample as it is."""
    return rows if rows.shape[0] == batch else rows[:1]


def without_padding(rows: torch.Tensor, batch: int) -> torch.Tensor:
    """Return the first rows of a padded result, one per sample, or the result itself where nothing was padded."""
    # the derivative of a slice fills zeros and copies, even where it takes all rows
    return rows if rows.shape[0] == batch else rows[:batch]


def rows_of(y: torch.Tensor) -> str:
    """Return the shape of states for an error message, [B, ...], because the batch may have been padded."""
    return str(["B", *y.shape[1:]]).replace("'", "")


def shared_names(backbone: Any) -> frozenset[str]:
    """Return the names of the conditions without rows, which a backbone declares in `shared_conditions`."""
    names = getattr(backbone, "shared_conditions", ())
    return frozenset([names] if isinstance(names, str) else names)


def pad_rows(
    x: torch.Tensor,
    levels: torch.Tensor,
    condition: dict[str, Any],
    shared: Collection[str] = (),
    least: int = MIN_ROWS,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Return x [B, *shape], levels [B, 1, ...] and conditions with 32, 48, 64, … rows on the CPU, at least
    `least`.

    Condition tensors whose first dimension is B are padded too, alone or in lists, tuples and dictionaries, unless
    their name is in `shared`. Other values are returned as they are, and so are levels of one row for several
    samples. The caller slices the results back to B rows. Nothing is padded for empty batches, on other devices,
    and within `unpadded`.
    """
    if is_unpadded():
        return x, levels, condition
    batch = x.shape[0]
    missing = max(least - batch, -batch % ROW_TILE)
    if x.device.type != "cpu" or missing == 0 or batch == 0:
        return x, levels, condition

    def padded_rows(tensor: torch.Tensor) -> torch.Tensor:
        has_rows = tensor.dim() > 0 and tensor.shape[0] == batch
        return _repeat_last(tensor, missing) if has_rows else tensor

    padded = {
        name: value if name in shared else with_tensors(value, padded_rows)
        for name, value in condition.items()
    }
    if levels.shape[0] == batch:
        levels = _repeat_last(levels, missing)
    return _repeat_last(x, missing), levels, padded
