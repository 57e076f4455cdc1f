"""Training data from a store: random rows of arrays, files, images or a data set."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.checksum import checksum
from edmfast._internal.select import rows_of
from edmfast.distill.data.placing import to_device
from edmfast.distill.data.reading import AheadReader, Drawn
from edmfast.distill.data.scaling import Scaling
from edmfast.distill.data.stores import RawRows, Store
from edmfast.distill.data.stores.arrays import bytes_of
from edmfast.distill.data.stores.labels import check_range

_SOME = 1024
"""The number of samples that stand for all of those that are not in memory."""
_HASHED = 1 << 28
"""The bytes of samples that are hashed of data that are read at little cost."""
_ON_DEVICE = 1 << 31
"""Raw samples in memory up to this size in bytes are copied to the device of the run as a whole."""


class StoredData:
    """Training data from a finite store of samples; see `TrainingData` for its parts.

    Rows are drawn with replacement, so that the state of the generator is the only state. With flip, index n + i
    is the mirror image of sample i of n.

    class_names: the name of each class, or None. workers: the number of threads that read ahead, where the samples
    are not in memory.
    """

    def __init__(self, store: Store, scaling: Scaling, *, flip: bool, workers: int) -> None:
        scaling.check(store.shape)
        if flip and len(store.shape) < 2:
            raise ValueError(f"flip=True needs images, given samples of shape {[*store.shape]}")
        self._store, self._scaling, self._flip, self._workers = store, scaling, flip, workers
        self.shape, self.has_labels = store.shape, store.has_labels
        self.class_names = store.class_names
        self.size = len(store) * (2 if flip else 1)
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.num_classes = 0
        self._known: int | None = None
        self._held, self._labels = store.resident, store.labels
        self._reader = AheadReader(self._read, self.size, workers)

    def placed(
        self, device: torch.device, dtype: torch.dtype, num_classes: int | None
    ) -> StoredData:
        """Return the same data for a student on this device, in this dtype, with so many classes.

        num_classes: None where the student does not say. Raises ValueError for labels that it does not cover.
        """
        placed = StoredData(self._store, self._scaling, flip=self._flip, workers=self._workers)
        placed.device, placed.dtype = device, dtype
        placed._known = num_classes if self.has_labels else None
        placed.num_classes = placed._known or 0
        if self._store.labels is not None:
            check_range(self._store.labels, num_classes)
        if placed._held is not None:
            fits = bytes_of(self._store) <= _ON_DEVICE
            placed._held = placed._held.to(device) if fits else None
            placed._labels = None if self._store.labels is None else self._store.labels.to(device)
        return placed

    def draw(self, step: int, count: int, generator: torch.Generator) -> Any:
        """Return the indices of `count` random samples, drawn with replacement."""
        if self._held is None:
            return self._reader.draw(count, generator)
        return torch.randint(self.size, (count,), generator=generator, device=generator.device)

    def rows(self, drawn: Any, part: slice) -> tuple[Tensor, Tensor | None]:
        """Return the samples [n, *shape] of a part of the indices, and their labels int64 [n] or None."""
        if isinstance(drawn, Drawn):
            start, stop, _ = part.indices(len(drawn.host))
            raw, labels = self._reader.rows(drawn, (start, stop))
            if labels is not None:
                check_range(labels, self._known)
            samples = to_device(raw, self.device)
            labels = None if labels is None else to_device(labels, self.device)
            return self._finished(
                samples, to_device(drawn.index((start, stop)), self.device)
            ), labels
        assert self._held is not None
        index = drawn[part].to(self._held.device)
        inside = index % len(self._store) if self._flip else index
        labels = None if self._labels is None else self._labels[inside]
        return self._finished(rows_of(self._held, inside), index), labels

    def some(self, count: int) -> Tensor:
        """Return equally spaced samples, up to count of them, and up to 1024 if they are not in memory."""
        count = count if self._held is not None else min(count, _SOME)
        index = torch.arange(0, self.size, max(1, math.ceil(self.size / count)))
        raw = self._read(index.tolist()).samples
        return self._finished(to_device(raw, self.device), index.to(self.device))

    def digest(self) -> str:
        """Return a checksum of the settings, of the names and sizes of files, and of raw samples.

        Arrays up to 256 MiB are hashed as a whole, and of larger ones equally spaced rows of 256 MiB. Of samples
        that take work to read, 1024 are hashed; a zip file has checksums of all its files, which count too. All
        ranks have one result, because it depends on nothing but the data and the settings.
        """
        count = len(self._store)
        stride = math.ceil(count / _SOME)
        if not self._store.is_costly:
            stride = min(stride, math.ceil(bytes_of(self._store) / _HASHED))
        rows = self._store.read(range(0, count, stride))
        parts = {"samples": rows.samples.contiguous()}
        labels = rows.labels if self._store.labels is None else self._store.labels
        if labels is not None:
            parts["labels"] = labels
        text = f"{self.size} {[*self.shape]} {self._scaling.text()} {self._store.identity}"
        return hashlib.sha256(checksum(parts, text).encode()).hexdigest()[:32]

    def _read(self, index: Any) -> RawRows:
        count = len(self._store)
        return self._store.read([i % count for i in index])

    def _finished(self, raw: Tensor, index: Tensor) -> Tensor:
        """Return raw samples on the device as the model takes them. index: theirs, on the same device."""
        samples = self._scaling(raw, self.dtype)
        if not self._flip:
            return samples
        mirrored = (index >= len(self._store)).reshape(-1, *[1] * len(self.shape))
        return torch.where(mirrored, samples.flip(-1), samples)
