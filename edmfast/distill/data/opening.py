"""The entry point `open_data`: training data from whatever the caller has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from edmfast._internal.numbers import as_bool, as_int
from edmfast.distill.data.scaling import Scaling
from edmfast.distill.data.source import TrainingData
from edmfast.distill.data.stored import StoredData
from edmfast.distill.data.stores import (
    ArrayStore,
    DatasetStore,
    ItemReader,
    Store,
    bytes_of,
    in_memory,
    open_path,
)
from edmfast.distill.data.stores.files import IN_MEMORY
from edmfast.distill.data.stores.items import Keys
from edmfast.distill.data.stream import StreamData
from edmfast.distill.data.tape import Tape

Numbers = float | Iterable[float] | Tensor
DataLike = (
    TrainingData
    | Tensor
    | np.ndarray[Any, Any]
    | tuple[Any, Any]
    | Dataset[Any]
    | Iterable[Any]
    | str
    | os.PathLike[str]
    | None
)
"""Everything that training may be given as data; None gets advice."""

ACCEPTED = (
    "a tensor or array [n, *shape], (samples, labels), a Dataset, an iterable, or the path of a folder or .zip of "
    "images or of a .npy, .npz or .safetensors file"
)


def open_data(
    data: DataLike,
    *,
    labels: bool = True,
    flip: bool = False,
    keys: Keys = None,
    channels_last: bool | None = None,
    scale: float | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    keep_in_memory: bool | None = None,
    workers: int = 0,
) -> TrainingData:
    """Open training data, with settings that `distill` does not have.

    What is accepted as data:

    - a tensor or NumPy array of samples [n, *shape], or (samples, labels [n]);
    - a map-style `torch.utils.data.Dataset`, or another object with `__len__` and `__getitem__`. Its items are
      samples, (sample, label), or mappings of which `keys` names the parts. The item at an index must always be
      the same;
    - an `IterableDataset` or another iterable of such items, which is read in its own order, and again from its
      start where it ends. The order must be the same each time and in every process; `set_epoch`, where there is
      one, is called with the number of each pass. A resumed run skips what was taken before;
    - a folder or `.zip` of images, which needs Pillow. Labels come from a file `dataset.json` of the form
      {"labels": [["name.png", class], ...]}, or else from one folder for each class;
    - a `.npy`, `.npz` or `.safetensors` file. Nothing is unpickled.

    uint8 samples stay uint8 until they are on the device of the run, and there become x / 127.5 - 1, within [-1,
    1]. uint8 images may have their channels first or last. Floats stay as they are: for latents, give mean, std
    and the student's sigma_data as scale.

    The rows of a step follow from the seed and the step alone, for any number of workers and processes.

    Args:
        data: what is to be opened.
        labels: False leaves labels out.
        flip: add the mirror image of every sample, along its last axis, which doubles the data. Not for a stream.
        keys: the name of the samples, or the names (samples, labels), in mappings and in files of several arrays.
            By default a file is searched for usual names, such as "images" and "labels", or "arr_0" and "arr_1".
        channels_last: True for images [H, W, C], False for [C, H, W]. By default uint8 images are recognised by
            their 1 or 3 channels, and floats have the channels first.
        scale: a factor on the samples, which is applied last.
        mean: what is subtracted from the raw samples, a number or one for each channel, in the units of the file.
            With mean or std, uint8 is not scaled to [-1, 1] before.
        std: what the raw samples are divided by after that.
        keep_in_memory: True reads all samples now, and False reads them when they are needed. By default files and
            images of up to 1 GiB are kept in memory, and items of a data set are not.
        workers: the number of threads that read the rows of the next step while a step is computed. 0 reads them
            when they are needed. With more than one, the data set must allow calls from several threads.

    Returns:
        The data, which `distill` takes as data.

    Raises:
        TypeError: data or items of another kind, or samples that are neither uint8 nor floating point.
        ValueError: data that are empty, not finite or damaged, samples of different shapes, or labels that do not
            belong to them. The error names the file or the item.
        FileNotFoundError: no file at the path.
        ImportError: images, and Pillow is not installed.

    Warns:
        UserWarning: a data set returned two different samples for one index.
    """
    flip, labels = as_bool("flip", flip), as_bool("labels", labels)
    workers = as_int("workers", workers, least=0)
    scaling = Scaling(mean, std, scale)
    _check_keys(keys)
    _check_kind(data)
    reader = ItemReader(keys, labels, channels_last)
    if not _has_rows(data):
        if flip:
            raise ValueError("flip=True needs data whose rows can be drawn, given a stream")
        if keep_in_memory:
            raise ValueError("keep_in_memory=True needs data of a known size, given a stream")
        return StreamData(Tape(cast(Iterable[Any], data), reader), scaling, workers=workers)
    store: Store
    if isinstance(data, (str, os.PathLike)):
        path = Path(os.fspath(data))
        store = open_path(
            path,
            labels=labels,
            keys=keys,
            channels_last=channels_last,
            keep_in_memory=keep_in_memory,
        )
        # an array that is not in memory by now is mapped, because it is large or the caller wants it
        small = store.is_decoded and bytes_of(store) <= IN_MEMORY
    elif isinstance(data, (Tensor, np.ndarray, tuple)):
        samples, classes = data if isinstance(data, tuple) else (data, None)
        store = ArrayStore(samples, classes if labels else None, channels_last=channels_last)
        small = False
    else:
        store, small = DatasetStore(data, reader), False
    if small if keep_in_memory is None else keep_in_memory:
        store = in_memory(store, workers)
    return StoredData(store, scaling, flip=flip, workers=workers)


def _check_kind(data: Any) -> None:
    """Raise for data that cannot be opened, with advice."""
    if data is None:
        raise ValueError(
            "data must be given, but is None. Without data, draw samples of the teacher: "
            "edmfast.teachers.generated_data(teacher, shape, count) returns what distill takes as data"
        )
    if isinstance(data, DataLoader):
        raise TypeError("data must be the dataset of the DataLoader: distill draws its own batches")
    if isinstance(data, (StoredData, StreamData)):
        raise TypeError("data is opened already: give its settings where it is opened")
    if isinstance(data, tuple):
        if len(data) != 2 or not isinstance(data[0], (Tensor, np.ndarray)):
            kinds = [type(part).__name__ for part in data]
            raise TypeError(f"data must be (samples, labels) as tensors or arrays, given {kinds}")
    elif isinstance(data, (Mapping, bytes)) or not (_has_rows(data) or hasattr(data, "__iter__")):
        raise TypeError(f"data must be {ACCEPTED}, given {type(data).__name__}")


def _has_rows(data: Any) -> bool:
    """Return whether single samples can be asked for, or the data are a stream."""
    if isinstance(data, (str, os.PathLike, tuple, Tensor, np.ndarray)):
        return True
    rows = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    # torch's base class of both kinds has __getitem__
    return rows and not isinstance(data, IterableDataset)


def _check_keys(keys: Any) -> None:
    pair = isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(key, str) for key in keys)
    if keys is not None and not isinstance(keys, str) and not pair:
        raise TypeError(f"keys must be a name or two names (samples, labels), given {keys!r}")
