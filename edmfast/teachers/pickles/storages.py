"""The numbers of tensors in a pickle: bytes in one of the two formats of torch.save, and views of them.

A storage is written as a file of its own inside the pickle: a series of pickles followed by the numbers, or since
torch 1.6 a zip archive. Both are read by the same machine, with no other names than those of storages. A tensor is
a view of a storage that lies within it and has no more elements. Zip archives must not be compressed, and together
their entries are no longer than the archive, so that a small file never becomes large.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import torch

from edmfast.teachers.pickles.budget import Budget
from edmfast.teachers.pickles.errors import DamagedPickleError, UnsafePickleError
from edmfast.teachers.pickles.machine import Meanings, run
from edmfast.teachers.pickles.stand_ins import Name

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_STORAGES = {Name("torch", name): dtype for name, dtype in _DTYPES.items()}
_MOST_DIMENSIONS = 32
_ZIP = b"PK\x03\x04"


class Storage:
    """The numbers of tensors: bytes of the file, of one dtype. One copy serves all tensors that share them."""

    def __init__(self, dtype: torch.dtype, raw: memoryview) -> None:
        self.dtype, self._raw = dtype, raw
        self.count = len(raw) // dtype.itemsize
        self._numbers: torch.Tensor | None = None

    def numbers(self) -> torch.Tensor:
        """Return all numbers, [n], in memory that can be written to."""
        if self._numbers is None:
            raw = bytearray(self._raw[: self.count * self.dtype.itemsize])
            empty = torch.empty(0, dtype=self.dtype)
            self._numbers = torch.frombuffer(raw, dtype=self.dtype) if raw else empty
        return self._numbers


def load_storage(data: Any, budget: Budget) -> Storage:
    """Return the storage that `torch.save` wrote as bytes. budget: pays for the length of the bytes.

    Raises UnsafePickleError for anything but one storage, and for a compressed archive. Raises DamagedPickleError
    for bytes that end too early.
    """
    if type(data) is not memoryview:
        raise UnsafePickleError("the pickle has a storage that is not made of bytes")
    budget.spend(len(data))
    storage = _of_zip(data) if bytes(data[:4]) == _ZIP else _of_pickles(data)
    if type(storage) is not Storage:
        raise UnsafePickleError("the pickle has an object in the place of a storage")
    return storage


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """Return a view [*size] of a storage.

    offset: number of elements before its first one. Other arguments, such as requires_grad and hooks, are dropped.
    Raises DamagedPickleError for a view that does not lie within the storage, or has more elements.
    """
    if type(storage) is not Storage:
        raise UnsafePickleError("the pickle makes a tensor of something that is no storage")
    shape, steps = _integers("size", size), _integers("stride", stride)
    (start,) = _integers("offset", [offset])
    if len(shape) != len(steps):
        raise DamagedPickleError(f"a tensor of size {shape[:8]} has strides {steps[:8]}")
    count = 1
    for length in shape:
        count *= length
    last = start + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    # a view with equal strides of 0 could claim any number of elements
    if count > storage.count or (count > 0 and last >= storage.count):
        raise DamagedPickleError(
            f"a tensor of size {shape[:8]} does not fit into its {storage.count} stored numbers"
        )
    if count == 0:
        # torch checks the offset of an empty view too, and nothing lies there
        return torch.empty(shape, dtype=storage.dtype)
    return storage.numbers().as_strided(shape, steps, start)


def rebuild_parameter(tensor: Any, *_: Any) -> torch.Tensor:
    """Return the tensor of a parameter."""
    if not isinstance(tensor, torch.Tensor):
        raise UnsafePickleError("the pickle makes a parameter of something that is no tensor")
    return tensor


def _integers(name: str, values: Any) -> list[int]:
    few = isinstance(values, (list, tuple)) and len(values) <= _MOST_DIMENSIONS
    if not few or not all(type(value) is int and 0 <= value < 2**48 for value in values):
        raise DamagedPickleError(
            f"the {name} of a tensor is not made of a few non-negative integers"
        )
    return [*values]


def _meanings(found: dict[str, Any]) -> Meanings:
    """Return the meanings of the pickle of a storage. found: receives the dtype, and the number of elements."""

    def persistent(identifier: Any) -> Any:
        # ('storage', type, key, location, number of elements) and in the older format a view, which is None
        parts: Sequence[Any] = identifier if type(identifier) is tuple else ()
        if len(parts) not in (5, 6) or parts[0] != "storage" or parts[5:] not in ((), (None,)):
            raise UnsafePickleError("the pickle has a storage of an unknown form")
        kind, key, count = parts[1], parts[2], parts[4]
        if type(key) is not str or type(count) is not int or not 0 <= count < 2**48:
            raise DamagedPickleError("the pickle has a storage without a key or a size")
        if type(kind) is not Name or kind not in _STORAGES:
            raise UnsafePickleError(
                f"the pickle has a storage of an unknown type {type(kind).__name__}"
            )
        if found:
            raise UnsafePickleError("the pickle has several storages in the place of one")
        found.update(dtype=_STORAGES[kind], key=key, count=count)
        return found

    def build(target: Any, state: Any) -> None:
        raise UnsafePickleError("the pickle of a storage gives a state to an object")

    return Meanings({}, lambda name: None, {}, frozenset(_STORAGES), build, persistent)


def _of_pickles(data: memoryview) -> Storage | None:
    """Return the storage in the older format: magic number, version, system, object, keys, numbers."""
    found: dict[str, Any] = {}
    position, parts = 0, []
    for _ in range(5):
        part, position = run(data, _meanings(found), position)
        parts.append(part)
    magic, version, system, stored, keys = parts
    if magic != _MAGIC or version != _PROTOCOL:
        raise DamagedPickleError("the bytes of a storage are not in a format of torch.save")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise DamagedPickleError("the bytes of a storage are not little-endian")
    if stored is not found or not found or keys != [found["key"]]:
        return None
    numbers = data[position:]
    # the numbers follow a count of them, in eight bytes
    if len(numbers) < 8 or int.from_bytes(numbers[:8], "little") != found["count"]:
        raise DamagedPickleError("a storage has another number of elements than it says")
    return _storage(found, numbers[8:])


def _of_zip(data: memoryview) -> Storage | None:
    """Return the storage in the newer format, a zip archive without compression."""
    found: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
                raise UnsafePickleError("the pickle holds a compressed archive, which is not read")
            # entries that share bytes could make a large archive of a small one
            if sum(entry.file_size for entry in entries.values()) > len(data):
                raise UnsafePickleError("the pickle holds an archive that is longer than its bytes")
            (name,) = (name for name in entries if name.endswith("data.pkl"))
            prefix = name.removesuffix("data.pkl")
            order = entries.get(f"{prefix}byteorder")
            if order is not None and archive.read(order) != b"little":
                raise DamagedPickleError("the bytes of a storage are not little-endian")
            stored, _ = run(memoryview(archive.read(name)), _meanings(found))
            if stored is not found or not found:
                return None
            numbers = memoryview(archive.read(f"{prefix}data/{found['key']}"))
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError) as error:
        raise DamagedPickleError(f"the pickle holds a damaged archive: {error}") from error
    return _storage(found, numbers)


def _storage(found: dict[str, Any], numbers: memoryview) -> Storage:
    if len(numbers) != found["count"] * found["dtype"].itemsize:
        raise DamagedPickleError(
            f"a storage says that it has {found['count']} elements, and holds {len(numbers)} bytes"
        )
    return Storage(found["dtype"], numbers)
