"""Files of arrays: `.npy`, `.npz` and `.safetensors`. Nothing is unpickled.

A `.npy` file, and an array that is stored in a `.npz` file without compression, can be mapped into memory: then
only the rows that a step needs are read.
"""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edmfast._internal.file_kinds import KEY
from edmfast._internal.files import read_tensors
from edmfast.distill.data.stores.items import Keys

SAMPLE_NAMES = ("samples", "images", "image", "data", "x", "latents", "arr_0")
"""The names under which a file of several arrays may hold its samples, the first that there is."""
LABEL_NAMES = ("labels", "label", "class_labels", "y", "arr_1")
"""The names under which a file of several arrays may hold its labels."""
_LOCAL_HEADER = 30
"""The bytes of the fixed part of the header of an entry in a zip file."""

_HEADER_ERRORS = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    OverflowError,
    RecursionError,
    SyntaxError,
    tokenize.TokenError,
)
"""Errors of NumPy for a damaged header, which is a text in the syntax of Python."""

Array = np.ndarray[Any, Any]


def open_npy(path: Path, keep: bool) -> Array:
    """Return the array of a `.npy` file, in memory with keep, and else mapped."""
    try:
        # mapping first refuses a header that promises more than the file holds
        mapped: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _HEADER_ERRORS as error:
        raise ValueError(f"{path} is not a readable .npy file of numbers: {error}") from error
    return np.array(mapped) if keep else mapped


def open_npz(path: Path, keys: Keys, keep: bool, labels: bool) -> tuple[Array, Array | None]:
    """Return the samples and the labels of a `.npz` file; without keep the samples are mapped where possible."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
            sample_name, label_name = chosen_names(path, [*entries], keys, labels)
            samples = _array(path, archive, entries[sample_name], keep)
            named = None if label_name is None else _array(path, archive, entries[label_name], True)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path} is not a readable .npz file: {error}") from error
    return samples, named


def open_safetensors(path: Path, keys: Keys, labels: bool) -> tuple[Tensor, Tensor | None]:
    """Return the samples and the labels of a `.safetensors` file."""
    try:
        with safe_open(path, framework="pt") as file:
            ours = KEY in (file.metadata() or {})
            # the handle is no mapping: it has keys() but cannot be iterated
            sample_name, label_name = chosen_names(path, [*file.keys()], keys, labels)
            if not ours:
                samples: Tensor = file.get_tensor(sample_name)
                return samples, None if label_name is None else file.get_tensor(label_name)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    # files that this package wrote have a checksum
    tensors, metadata = read_tensors(path)
    if metadata.get("count", len(tensors[sample_name])) != len(tensors[sample_name]):
        raise ValueError(
            f"{path} is unfinished: it has {len(tensors[sample_name])} of {metadata['count']} samples. Call "
            "generated_data again with its path and the same arguments to complete it"
        )
    return tensors[sample_name], None if label_name is None else tensors[label_name]


def chosen_names(
    path: Path, present: Sequence[str], keys: Keys, labels: bool
) -> tuple[str, str | None]:
    """Return the names of the samples and of the labels among the arrays of a file."""
    if keys is not None:
        names = (keys,) if isinstance(keys, str) else keys
        for name in names:
            if name not in present:
                raise ValueError(f"keys names {name!r}, but {path} has the arrays {[*present]}")
        return names[0], names[1] if len(names) == 2 and labels else None
    sample = next((name for name in SAMPLE_NAMES if name in present), None)
    if sample is None and len(present) == 1:
        sample = present[0]
    if sample is None:
        raise ValueError(
            f"{path} has the arrays {[*present]}, none of which is named {SAMPLE_NAMES}: name the samples by keys"
        )
    label = next((name for name in LABEL_NAMES if name in present and name != sample), None)
    return sample, label if labels else None


def _array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, keep: bool) -> Array:
    """Return one array of a `.npz` file, mapped where it is stored as it is and keep is False."""
    where = f"{path}: the array {info.filename!r}"
    if info.flag_bits & 1:
        raise ValueError(f"{where} is encrypted")
    with archive.open(info) as file:
        shape, fortran, dtype = array_header(file, where)
        start = file.tell()
        expected = int(np.prod([int(side) for side in shape], dtype=object)) * dtype.itemsize
        # the header alone could make NumPy reserve any amount of memory
        if start + expected != info.file_size:
            raise ValueError(
                f"{where} is truncated or corrupt: it has {info.file_size - start} of {expected} bytes"
            )
        if keep or info.compress_type != zipfile.ZIP_STORED:
            content = np.frombuffer(bytearray(file.read()), dtype)
            if content.nbytes != expected:
                raise ValueError(
                    f"{where} is truncated: it has {content.nbytes} of {expected} bytes"
                )
            return content.reshape(shape, order="F" if fortran else "C")
    offset = _offset(path, info) + start
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")


def array_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return (shape, Fortran order, dtype) of an array in the format of NumPy, and leave the file at its numbers.

    Raises ValueError for a file of another format, and for arrays of Python objects.
    """
    try:
        version = np.lib.format.read_magic(file)
        # versions 2 and 3 differ in the text of field names only
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(file)
    except _HEADER_ERRORS as error:
        raise ValueError(f"{where} is no array of NumPy: {error}") from error
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"{where} is no array of NumPy: it has the shape {shape}")
    if dtype.hasobject:
        raise ValueError(f"{where} holds Python objects, which would have to be unpickled: refused")
    return shape, fortran, dtype


def _offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Return the place in a zip file at which the bytes of an entry start."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER)
    name, extra = struct.unpack("<HH", header[26:])
    return info.header_offset + _LOCAL_HEADER + int(name) + int(extra)
