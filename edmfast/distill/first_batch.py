"""A check that a resumed run has the data and the teacher of its checkpoint.

The first batch of a run follows from its seed, so that a resumed run can make it again: other data or another
teacher give other numbers. That costs one call of the teacher, and only when a run is resumed. A checksum of the
data is compared as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edmfast.distill.batch import Batch

FIRST_ROWS = 256
"""The number of rows of the first batch that are compared, each at its own noise level."""


def numbers_of(batch: Batch) -> list[float]:
    """Return one number for each row of every tensor of a batch, a projection of the whole row."""
    projections = [_projected(tensor[:FIRST_ROWS]) for tensor in batch.values()]
    # nine digits identify a number of single precision, and keep the metadata short
    return [float(f"{value:.9g}") for value in torch.cat(projections).tolist()]


def check_first_batch(path: Any, saved: Any, make: Callable[[int], Batch], tensors: int) -> None:
    """Raise ValueError where the first batch is not the one of a checkpoint.

    saved: the numbers in the checkpoint, from `numbers_of`, for so many tensors. make: returns these tensors for
        the given number of first rows, which depends on the number of ranks that wrote the checkpoint. Where the
        teacher is random and returns two different answers to the same batch, the comparison is impossible, and
        there is a warning instead.
    """
    if not isinstance(saved, list) or not all(isinstance(value, float) for value in saved):
        raise ValueError(f"{path} is corrupt: the entry of its first batch holds no list of floats")
    rows = len(saved) // tensors
    # fork_rng would otherwise visit every GPU of the machine
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    # the check must not change the random numbers that the run will draw
    with torch.random.fork_rng(devices):
        current = numbers_of(make(rows))
        if _close(saved, current):
            return
        random = not _close(current, numbers_of(make(rows)))
    if random:
        warnings.warn(
            f"{path}: the teacher returns two different answers to the same batch, so it cannot be compared with "
            "the teacher of the checkpoint",
            stacklevel=5,
        )
        return
    raise ValueError(
        f"{path} belongs to another run: its teacher or its data differ from these, since the first batch differs"
    )


def _projected(rows: Tensor) -> Tensor:
    flat = rows.detach().double().cpu().flatten(1)
    # a fixed projection notices a change of any element, and keeps one number per row
    pattern = torch.arange(1, flat.shape[1] + 1, dtype=torch.float64).cos()
    projection: Tensor = flat @ (pattern / pattern.norm())
    return projection


def _close(first: list[float], second: list[float]) -> bool:
    if len(first) != len(second):
        return False
    # the tolerance allows for another device or number of threads
    a, b = (torch.tensor(numbers, dtype=torch.float64) for numbers in (first, second))
    return bool(((a - b).abs() <= 1e-3 * (1 + b.abs())).all() or torch.equal(a, b))
