"""Stores of arrays: tensors and NumPy arrays in memory, and arrays that are mapped from a file."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edmfast._internal.select import rows_of
from edmfast.distill.data.stores.channels import channels_are_last
from edmfast.distill.data.stores.labels import as_labels
from edmfast.distill.data.stores.store import RawRows, Store, check_dtype, check_finite, check_plain

_CHECKED = 1024
"""The number of equally spaced samples of a mapped file that are checked when it is opened."""
_READ_AT_ONCE = 256


class ArrayStore(Store):
    """A store of one array of samples [n, *shape], and of labels [n] where there are any.

    array: a tensor or a NumPy array. A `numpy.memmap` stays in its file, and each batch of it is checked when it
    is read. where: what error messages call the array. channels_last: see `channels_are_last`.

    Raises TypeError for an array of other numbers than uint8 and floats, or with a mask. Raises ValueError for an
    empty or non-finite array, and for another number of labels than of samples.
    """

    def __init__(
        self,
        array: Tensor | np.ndarray[Any, Any],
        labels: Any = None,
        *,
        channels_last: bool | None = None,
        where: str = "data",
    ) -> None:
        check_plain(array, where)
        if array.ndim < 2 or len(array) == 0 or 0 in array.shape:
            raise ValueError(
                f"{where} must be [n, *shape] with n >= 1 and no empty axis, given {[*array.shape]}"
            )
        self._where = where
        self._mapped = array if isinstance(array, np.memmap) else None
        self.resident = None if self._mapped is not None else _tensor_of(array, where)
        self.dtype = _dtype_of(array[:1], where) if self.resident is None else self.resident.dtype
        check_dtype(self.dtype, where)
        shape = tuple(int(side) for side in array.shape[1:])
        is_uint8 = self.dtype == torch.uint8
        self._turned = channels_are_last(shape, is_uint8, channels_last, where)
        self.shape = (shape[2], shape[0], shape[1]) if self._turned else shape
        self._count = len(array)
        if self.resident is not None:
            self.resident = self.resident.movedim(-1, 1) if self._turned else self.resident
            check_finite(self.resident, where)
        else:
            stride = -(-self._count // _CHECKED)
            self.read(range(0, self._count, stride))
        if labels is not None:
            self.labels = as_labels(labels, self._count, "labels")
            self.has_labels = True

    def __len__(self) -> int:
        return self._count

    def read(self, index: Sequence[int]) -> RawRows:
        """Return the samples and labels at some indices."""
        if self._mapped is None:
            assert self.resident is not None
            return RawRows(rows_of(self.resident, torch.as_tensor(index)), self.labels_at(index))
        # the file is read in its own order, which a disk prefers
        wanted = np.asarray(index)
        order = np.argsort(wanted, kind="stable")
        rows = np.empty((len(wanted), *self._mapped.shape[1:]), self._mapped.dtype)
        rows[order] = self._mapped[wanted[order]]
        samples = _tensor_of(rows, self._where)
        samples = samples.movedim(-1, 1) if self._turned else samples
        check_finite(samples, self._where)
        return RawRows(samples, self.labels_at(index))


def in_memory(store: Store, workers: int = 0) -> Store:
    """Return a store with the same samples in memory, which `workers` threads read."""
    if store.resident is not None:
        return store
    samples = torch.empty((len(store), *store.shape), dtype=store.dtype)
    labels = torch.empty(len(store), dtype=torch.int64) if store.has_labels else None

    def read(first: int) -> None:
        index = range(first, min(first + _READ_AT_ONCE, len(store)))
        rows = store.read(index)
        samples[first : index.stop] = rows.samples
        if labels is not None and rows.labels is not None:
            labels[first : index.stop] = rows.labels

    with ThreadPoolExecutor(max(1, workers)) as pool:
        # the list raises what a thread raised
        list(pool.map(read, range(0, len(store), _READ_AT_ONCE)))
    held = ArrayStore(samples, labels, channels_last=False)
    held.class_names, held.identity = store.class_names, store.identity
    held.is_costly = store.is_costly
    return held


def bytes_of(store: Store) -> int:
    """Return the bytes that all raw samples of a store take in memory."""
    elements = len(store)
    for side in store.shape:
        elements *= side
    return elements * store.dtype.itemsize


def _tensor_of(array: Tensor | np.ndarray[Any, Any], where: str) -> Tensor:
    """Return an array as a tensor on the CPU, without a copy where torch can share its memory."""
    if isinstance(array, Tensor):
        return array.detach().cpu()
    if array.dtype.kind not in "uf":
        raise TypeError(f"{where} must hold uint8 or floating-point numbers, given {array.dtype}")
    # torch takes neither foreign byte orders nor reversed axes, and warns of memory that may not be written
    array = np.asarray(array).astype(array.dtype.newbyteorder("="), copy=False)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        message = f"{where} must hold uint8 or floating-point numbers, given {array.dtype}"
        raise TypeError(message) from error


def _dtype_of(array: np.ndarray[Any, Any] | Tensor, where: str) -> torch.dtype:
    return _tensor_of(array, where).dtype
