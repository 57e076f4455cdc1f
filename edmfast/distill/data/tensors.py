"""Training data that lie on the device as tensors, and their checks before any work is done."""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import torch

from edmfast._internal.checksum import checksum
from edmfast._internal.json_text import shortened
from edmfast._internal.select import rows_of
from edmfast.distill.data.stores.store import check_plain

_BYTES = 1 << 28
"""Data up to this size are hashed as a whole. Of larger data, equally spaced rows and the mean are hashed."""


class TensorData(NamedTuple):
    """Training data on the student's device: samples [n, *shape], and labels int64 [n] or None.

    num_classes: the number of classes that the student knows, 0 without labels.
    """

    samples: torch.Tensor
    labels: torch.Tensor | None
    num_classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.samples.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the samples."""
        return self.samples.dtype

    @property
    def device(self) -> torch.device:
        """The device of the samples."""
        return self.samples.device

    @property
    def size(self) -> int:
        """The number of samples."""
        return len(self.samples)

    @property
    def has_labels(self) -> bool:
        """True where there are labels."""
        return self.labels is not None

    def draw(self, step: int, count: int, generator: torch.Generator) -> torch.Tensor:
        """Return the indices of `count` random samples, drawn with replacement.

        So the state of the generator is the only state of the data.
        """
        return torch.randint(
            len(self.samples), (count,), generator=generator, device=generator.device
        )

    def rows(self, drawn: torch.Tensor, part: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the samples [n, *shape] of a part of the indices, and their labels int64 [n] or None."""
        index = drawn[part]
        return rows_of(self.samples, index), None if self.labels is None else self.labels[index]

    def some(self, count: int) -> torch.Tensor:
        """Return equally spaced samples, up to count of them."""
        return self.samples[:: max(1, math.ceil(len(self.samples) / count))]

    def digest(self) -> str:
        """Return a checksum of samples and labels."""
        samples, labels = self.samples.detach(), self.labels
        # hashing all of a large data set would delay the first checkpoint
        stride = math.ceil(samples.numel() * samples.element_size() / _BYTES)
        parts = {"samples": samples[::stride].cpu()}
        if labels is not None:
            parts["labels"] = labels.cpu()
        text = f"{[*samples.shape]}"
        if stride > 1:
            text += f" {samples.double().mean().item():.4g}"
        return hashlib.sha256(checksum(parts, text).encode()).hexdigest()[:32]


def checked_tensors(
    data: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
    num_classes: int | None,
) -> TensorData:
    """Return tensors as training data on a device.

    data: samples [n, *shape] of this dtype, or (samples, labels int64 [n]). num_classes: None where the student
    does not say. Raises TypeError for another dtype and for labels that are not int64. Raises ValueError for
    empty, non-finite or misshapen data, and for labels out of range.
    """
    samples, labels = data if isinstance(data, tuple) else (data, None)
    check_plain(samples, "data")
    samples = samples.detach()
    if samples.dtype != dtype:
        raise TypeError(
            f"data must have the dtype of the student's parameters, {dtype}, given {samples.dtype}"
        )
    if samples.dim() < 2 or len(samples) == 0:
        raise ValueError(f"data must be [n, *shape] with n >= 1, given {[*samples.shape]}")
    if not samples.isfinite().all():
        raise ValueError(
            f"data must be finite, given {int((~samples.isfinite()).sum())} non-finite numbers"
        )
    samples = samples.to(device)
    if labels is None:
        return TensorData(samples, None, 0)
    labels = _check_labels(labels, len(samples), num_classes)
    return TensorData(samples, labels.to(device), num_classes or 0)


def _check_labels(labels: torch.Tensor, count: int, known: int | None) -> torch.Tensor:
    if not isinstance(labels, torch.Tensor) or labels.dtype != torch.int64:
        kind = getattr(labels, "dtype", None) or shortened(labels)
        raise TypeError(f"labels must be an int64 tensor, given {kind}")
    if labels.shape != (count,):
        raise ValueError(
            f"labels must be [n] = [{count}], one for each sample, given {[*labels.shape]}"
        )
    # an embedding would fail later with an index error that names no label
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (known is not None and high >= known):
        classes = "" if known is None else f" and below num_classes = {known}"
        raise ValueError(f"labels must not be negative{classes}, given {low}..{high}")
    return labels
