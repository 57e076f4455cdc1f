"""The data of an evaluation: from tensors, arrays, data sets or files, with labels where there are any.

They are read as `edmfast.distill` reads training data. Images of bytes become numbers in [-1, 1], x/127.5 - 1,
when their rows are needed, so that a large set stays small.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edmfast._internal.generators import generator
from edmfast.distill.data.stores import ArrayStore, DatasetStore, ItemReader, Store, open_path

_BYTE = 2 / 255


@dataclass(frozen=True)
class EvaluationData:
    """Samples [N, *shape], floating or bytes, with labels int64 [N] or None, on the CPU.

    bin_width: the distance of two neighbouring values where the samples are rounded to a grid, such as 2/255 for
    bytes, or None.
    """

    stored: Tensor
    labels: Tensor | None
    bin_width: float | None

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.stored.shape[1:])

    def rows(self, index: Tensor | slice, like: Tensor) -> Tensor:
        """Return samples [n, *shape] in the dtype and on the device of `like`."""
        x = self.stored[index]
        if x.dtype == torch.uint8:
            return x.to(like.device).to(like.dtype) / 127.5 - 1
        return x.to(like)

    def order(self, seed: int) -> Tensor:
        """Return a random order of all rows, int64 [N]."""
        return torch.randperm(len(self), generator=generator(seed))


def as_data(data: Any, bin_width: float | None = None) -> EvaluationData:
    """Return the data of an evaluation.

    data: a tensor or array [N, *shape]; a pair (samples, labels); a data set with a length, whose items are
        samples or pairs (sample, label); or the path of a folder or .zip of images or of an .npz, .npy or
        safetensors file. See `edmfast.distill.data.open_data`.
    bin_width: as in `EvaluationData`; 2/255 for bytes by default.
    Raises TypeError for anything else, ValueError for data of other shapes or numbers that are not finite, and
    FileNotFoundError without a file.
    """
    if isinstance(data, EvaluationData):
        return data
    store = _store(data)
    if len(store) < 2:
        raise ValueError(f"data must hold at least two samples, got {len(store)}")
    samples, labels = store.read(range(len(store)))
    if samples.dtype == torch.uint8:
        return EvaluationData(samples, labels, _BYTE if bin_width is None else bin_width)
    return EvaluationData(samples.detach().cpu(), labels, bin_width)


def _store(data: Any) -> Store:
    """Return data in any form as a store, which is read by index."""
    if isinstance(data, (str, os.PathLike)):
        return open_path(data, labels=True, keys=None, channels_last=None, keep_in_memory=None)
    if isinstance(data, (Tensor, np.ndarray)):
        return ArrayStore(data)
    if isinstance(data, tuple) and len(data) == 2:
        return ArrayStore(torch.as_tensor(data[0]), data[1])
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, dict):
        return DatasetStore(data, ItemReader(None, True, None))
    raise TypeError(
        "data must be a tensor or array, a pair (samples, labels), a data set with a length or a path, got "
        f"{type(data).__name__}"
    )
