"""The base class of stores: finite sets of raw samples and labels on the CPU, which are read by their index."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class RawRows(NamedTuple):
    """Some samples as they are stored, [n, *shape] on the CPU, and their labels int64 [n] or None."""

    samples: Tensor
    labels: Tensor | None


class Store(abc.ABC):
    """A finite set of raw samples.

    Attributes:
        shape: the shape of one sample, with the channels of an image first.
        dtype: the dtype of the samples: uint8 or a floating-point dtype.
        labels: all labels, int64 [n] on the CPU, where they are known without reading the samples.
        has_labels: True where `read` returns labels.
        class_names: the name of each class, where the store has names.
        identity: a text with the names and sizes of the files, by which a resumed run recognises its data.
        resident: all samples [n, *shape] where they are in memory, or None.
        is_decoded: True where reading a sample takes work, such as decoding an image.
        is_costly: True where the samples come from reading that takes work, also after they are in memory.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    labels: Tensor | None = None
    has_labels: bool = False
    class_names: tuple[str, ...] | None = None
    identity: str = ""
    resident: Tensor | None = None
    is_decoded: bool = False
    is_costly: bool = False

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def read(self, index: Sequence[int]) -> RawRows:
        """Return the samples and labels at some indices, each from 0 to len - 1. Threads may call this at once."""

    def labels_at(self, index: Sequence[int]) -> Tensor | None:
        """Return the labels at some indices, of a store that knows all of them."""
        return None if self.labels is None else self.labels[torch.as_tensor(index)]


def check_plain(array: Any, where: str) -> None:
    """Raise TypeError for a masked array, and for a tensor whose numbers do not all lie in memory.

    where: the start of the error message.
    """
    if isinstance(array, np.ma.MaskedArray):
        # what the mask hides would become training data
        raise TypeError(
            f"{where} must have no mask, given a masked array: choose rows without masked numbers, or fill them"
        )
    if isinstance(array, Tensor) and (array.layout != torch.strided or array.is_meta):
        kind = "a tensor on the meta device" if array.is_meta else str(array.layout)
        raise TypeError(f"{where} must be a dense tensor, given {kind}")


def check_dtype(dtype: torch.dtype, where: str) -> None:
    """Raise TypeError unless samples have a dtype that can be scaled. where: the start of the error message."""
    if dtype != torch.uint8 and dtype not in FLOATS:
        raise TypeError(f"{where} must hold uint8 or floating-point numbers, given {dtype}")


def check_finite(samples: Tensor, where: str) -> None:
    """Raise ValueError where floating-point samples hold NaN or infinity."""
    if samples.dtype == torch.uint8:
        return
    # the smallest and the largest number are enough, and need no mask of the size of the data
    if samples.numel() and not bool(torch.stack(torch.aminmax(samples)).isfinite().all()):
        count = int((~samples.isfinite()).sum())
        raise ValueError(f"{where} must be finite, given {count} non-finite numbers")
