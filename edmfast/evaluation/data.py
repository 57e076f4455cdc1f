"""The data of an evaluation: from tensors, arrays, data sets or files, with labels where there are any.

Images of bytes become numbers in [-1, 1], x/127.5 - 1, when their rows are read, so that a large set stays small.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from edmfast._internal.generators import generator

_SAMPLES = ("x", "images", "samples", "data", "arr_0")
_LABELS = ("y", "labels", "label", "class_label", "arr_1")
_CHANNELS = (1, 3, 4)
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
        samples or pairs (sample, label); or the path of an .npz, .npy or safetensors file, see `read_file`.
    bin_width: as in `EvaluationData`; 2/255 for bytes by default.
    Raises TypeError for anything else, ValueError for data of other shapes or numbers that are not finite, and
    FileNotFoundError without a file.
    """
    if isinstance(data, EvaluationData):
        return data
    samples, labels = _parts(data)
    if not isinstance(samples, Tensor) or samples.dim() < 2 or len(samples) < 2:
        shape = [*samples.shape] if isinstance(samples, Tensor) else type(samples).__name__
        raise ValueError(f"data must be [N, *shape] with N >= 2, got {shape}")
    if samples.dtype == torch.uint8:
        return EvaluationData(samples, labels, _BYTE if bin_width is None else bin_width)
    if not samples.is_floating_point():
        raise TypeError(f"data must be floating or bytes (uint8), got {samples.dtype}")
    if not bool(samples.isfinite().all()):
        raise ValueError("data must be finite, got NaN or infinity among them")
    return EvaluationData(samples, labels, bin_width)


def read_file(path: Path) -> tuple[Tensor, Tensor | None]:
    """Return (samples, labels or None) of a file; nothing is unpickled.

    An .npy file holds the samples. In an .npz or safetensors file they are called x, images, samples, data or
    arr_0, and the labels y, labels, label, class_label or arr_1. Bytes [N, H, W, C] become [N, C, H, W].
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    arrays = _arrays(path)
    name = next((name for name in _SAMPLES if name in arrays), None)
    if name is None:
        raise ValueError(
            f"{path} has no array called {', '.join(_SAMPLES)}; it has {', '.join(sorted(arrays)) or 'none'}"
        )
    samples = arrays[name]
    channels_last = samples.dim() == 4 and samples.shape[3] in _CHANNELS
    if samples.dtype == torch.uint8 and channels_last and samples.shape[1] not in _CHANNELS:
        samples = samples.permute(0, 3, 1, 2).contiguous()
    labels = next((arrays[name] for name in _LABELS if name in arrays), None)
    return samples, labels


def _arrays(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {_SAMPLES[0]: torch.from_numpy(content)}
        with content:
            return {name: torch.from_numpy(content[name]) for name in content.files}
    # the readers raise errors of many classes for a corrupt file
    except Exception as error:
        raise ValueError(
            f"{path} is no readable .npz, .npy or safetensors file: {error}"
        ) from error


def _parts(data: Any) -> tuple[Any, Tensor | None]:
    """Return (samples, labels or None) of data in any form."""
    if isinstance(data, (str, os.PathLike)):
        samples, labels = read_file(Path(os.fspath(data)))
        return samples, _labels(labels, len(samples))
    if isinstance(data, (Tensor, np.ndarray)):
        return torch.as_tensor(data).detach().cpu(), None
    if isinstance(data, tuple) and len(data) == 2:
        samples = torch.as_tensor(data[0]).detach().cpu()
        return samples, _labels(data[1], len(samples))
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, dict):
        return _items(data)
    raise TypeError(
        "data must be a tensor or array, a pair (samples, labels), a data set with a length or a path, got "
        f"{type(data).__name__}"
    )


def _items(data: Any) -> tuple[Any, Tensor | None]:
    """Return all items of a data set as tensors."""
    items = [data[i] for i in range(len(data))]
    if not items:
        raise ValueError("data must hold at least two samples, got none")
    if isinstance(items[0], (tuple, list)):
        samples = torch.stack([torch.as_tensor(item[0]) for item in items])
        return samples, _labels(torch.tensor([int(item[1]) for item in items]), len(items))
    return torch.stack([torch.as_tensor(item) for item in items]), None


def _labels(labels: Any, count: int) -> Tensor | None:
    if labels is None:
        return None
    numbers = torch.as_tensor(labels).detach().cpu()
    if numbers.dim() == 2 and numbers.is_floating_point():
        numbers = numbers.argmax(1)  # rows of a one-hot table, as EDM's data sets have them
    if numbers.shape != (count,) or numbers.is_floating_point():
        raise ValueError(f"labels must be integers [{count}], got {[*numbers.shape]}")
    return numbers.long()
