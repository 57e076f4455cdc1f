"""Tell the data and the teacher of one run from those of another by a checksum and the first batch.

The first batch of a run follows from its seed, so a run that is resumed can make it again: other data or another
teacher give other numbers. Making it costs one call of the teacher, and only when a run is resumed.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.checksum import checksum
from edmfast.distill.batch import Batch
from edmfast.distill.data import TrainingData

FIRST_ROWS = 256
"""Rows of the first batch that are looked at, each at a noise level of its own."""
_BYTES = 1 << 28
"""Data up to this size are hashed whole, larger ones by rows at equal distances, and by their mean."""


def data_digest(data: TrainingData) -> str:
    """Return a checksum of samples and labels."""
    samples, labels = data.samples.detach(), data.labels
    stride = math.ceil(samples.numel() * samples.element_size() / _BYTES)
    parts = {"samples": samples[::stride].cpu()}
    if labels is not None:
        parts["labels"] = labels.cpu()
    text = f"{[*samples.shape]}"
    if stride > 1:
        text += f" {samples.double().mean().item():.4g}"
    return hashlib.sha256(checksum(parts, text).encode()).hexdigest()[:32]


def numbers_of(batch: Batch) -> list[float]:
    """Return one number of every row of a batch and of the teacher's answer, in which all of the row counts."""
    both = [_projected(batch[name][:FIRST_ROWS]) for name in ("x", "target")]
    return [float(f"{value:.9g}") for value in torch.cat(both).tolist()]


def check_first_batch(path: Any, saved: Any, make: Callable[[], Batch]) -> None:
    """Raise ValueError where the first batch that make returns is not the one of a checkpoint.

    Warn where a teacher that answers twice in two ways leaves that open. saved: as `numbers_of` gave it.
    """
    if not isinstance(saved, list) or not all(isinstance(value, float) for value in saved):
        raise ValueError(f"{path} is corrupt: the numbers of its first batch are none")
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):  # so that the run draws the numbers that it would without
        found = numbers_of(make())
        if _close(saved, found):
            return
        random = not _close(found, numbers_of(make()))
    if random:
        warnings.warn(
            f"{path}: the teacher answers twice in two ways, so it cannot be told whether it is that of this run",
            stacklevel=5,
        )
        return
    raise ValueError(
        f"{path} is of another run: its teacher or its data are others, since the first batch differs"
    )


def _projected(rows: Tensor) -> Tensor:
    flat = rows.detach().double().cpu().flatten(1)
    pattern = torch.arange(1, flat.shape[1] + 1, dtype=torch.float64).cos()
    return flat @ (pattern / pattern.norm())


def _close(one: list[float], other: list[float]) -> bool:
    if len(one) != len(other):
        return False
    a, b = (torch.tensor(numbers, dtype=torch.float64) for numbers in (one, other))
    return bool(((a - b).abs() <= 1e-3 * (1 + b.abs())).all() or torch.equal(a, b))
