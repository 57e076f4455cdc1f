"""The stores of data on the disk, chosen by the path."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from edmfast.distill.data.stores.archives import SUFFIXES, Folder, Zip
from edmfast.distill.data.stores.array_files import open_npy, open_npz, open_safetensors
from edmfast.distill.data.stores.arrays import ArrayStore
from edmfast.distill.data.stores.images import ImageStore
from edmfast.distill.data.stores.items import Keys
from edmfast.distill.data.stores.store import Store

IN_MEMORY = 1 << 30
"""Data up to this size in bytes are kept in memory where the caller does not decide."""


def open_path(
    path: str | os.PathLike[str],
    *,
    labels: bool,
    keys: Keys,
    channels_last: bool | None,
    keep_in_memory: bool | None,
) -> Store:
    """Return the store of a folder or `.zip` of images, or of a `.npy`, `.npz` or `.safetensors` file.

    Raises FileNotFoundError where there is nothing at the path, and ValueError for files of another kind.
    """
    path = Path(os.fspath(path))
    if not path.exists():
        raise FileNotFoundError(f"data {path}: there is no such file or folder")
    if path.is_dir():
        return ImageStore(Folder(path), labels=labels, channels_last=channels_last)
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return ImageStore(Zip(path), labels=labels, channels_last=channels_last)
    size = path.stat().st_size
    keep = size <= IN_MEMORY if keep_in_memory is None else keep_in_memory
    where = str(path)
    if suffix == ".npy":
        store = ArrayStore(open_npy(path, keep), channels_last=channels_last, where=where)
    elif suffix == ".npz":
        samples, named = open_npz(path, keys, keep, labels)
        store = ArrayStore(samples, named, channels_last=channels_last, where=where)
    elif suffix == ".safetensors":
        tensor, classes = open_safetensors(path, keys, labels)
        store = ArrayStore(tensor, classes, channels_last=channels_last, where=where)
    elif suffix in SUFFIXES:
        raise ValueError(f"data {path} is one image: give the folder of the images")
    else:
        raise ValueError(
            f"data {path} has the suffix {suffix!r}: accepted are a folder or .zip of images, .npy, .npz and "
            ".safetensors"
        )
    store.identity = hashlib.sha256(f"{size}".encode()).hexdigest()
    return store
