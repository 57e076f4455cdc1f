"""Files of tensors (safetensors with JSON metadata) and JSON files, each written whole or not at all.

Nothing is unpickled. Files of tensors hold a checksum of their content (see `edmfast._internal.checksum`), which
is verified before any of it is used. Files of version 1 have no checksum and are read without one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edmfast._internal.atomic_write import check_output, replacing
from edmfast._internal.checksum import checksum
from edmfast._internal.file_kinds import KEY
from edmfast._internal.json_text import parse_json, shortened

_MARK, _SEPARATOR, _VERSION = '{"sha256": "', '", ', "file_version"
_CURRENT_VERSION = 2


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    metadata: dict[str, Any],
    *,
    kind: str,
    overwrite: bool = False,
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> None:
    """Write tensors and metadata that JSON can hold; a previous file is replaced only when all is written.

    kind: the kind of the file, one of `edmfast._internal.file_kinds`. inputs, overwrite: as for `check_output`.
    Raises as `check_output` does.
    """
    path = check_output(path, kind, inputs=inputs, overwrite=overwrite)
    # safetensors refuses shared and strided memory, so every tensor is written from its own copy.
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({_VERSION: _CURRENT_VERSION, **metadata})
    # The header has one entry, because safetensors writes several in any order, and the same content must give
    # the same bytes.
    header = {KEY: f"{_MARK}{checksum(plain, text)}{_SEPARATOR}{text[1:]}"}
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, metadata=header)
        except SafetensorError as error:
            # safetensors raises this error for a full disk.
            raise OSError(f"cannot write {path}: {error}") from error


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return (tensors on the CPU, metadata) of a file that `write_tensors` wrote.

    Raises FileNotFoundError where there is no file, ValueError for a file that is corrupt or not edmfast's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # The handle is no mapping: it has keys() but cannot be iterated.
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, a file is no dictionary
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if KEY not in header:
        raise ValueError(f"{path} was not written by edmfast: it has no {KEY!r} metadata")
    return tensors, _verified(path, tensors, header)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata of a file that `write_tensors` wrote, without its tensors and without a checksum.

    Nothing in it may be trusted before `read_tensors` has returned the same. Raises as `read_tensors` does.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if KEY not in header:
        raise ValueError(f"{path} was not written by edmfast: it has no {KEY!r} metadata")
    text = header[KEY]
    if text.startswith(_MARK):
        text = "{" + text[len(_MARK) + 64 + len(_SEPARATOR) :]
    metadata = parse_json(path, text)
    metadata.pop(_VERSION, None)
    return metadata


def _verified(
    path: Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]
) -> dict[str, Any]:
    """Return the metadata of a file, after checking its checksum or, for version 1, that it has none."""
    text, recorded = header[KEY], None
    if text.startswith(_MARK):
        # The checksum covers the text as written, so it is cut out by position: parsing and
        # printing JSON again need not give the same text.
        recorded, text = text[len(_MARK) :][:64], "{" + text[len(_MARK) + 64 + len(_SEPARATOR) :]
    whole = f"{_MARK}{recorded}{_SEPARATOR}{text[1:]}" if recorded is not None else text
    if (
        header.keys() != {KEY}
        or whole != header[KEY]
        or (recorded is not None and recorded != checksum(tensors, text))
    ):
        raise ValueError(
            f"{path} is corrupt: its content does not have the checksum that it was written with. Use an older "
            "copy of the file"
        )
    metadata = parse_json(path, text)
    version = metadata.pop(_VERSION, 1)
    # True equals 1 in Python.
    if version not in (1, _CURRENT_VERSION) or isinstance(version, bool):
        raise ValueError(
            f"{path} has file version {shortened(version)}, but this edmfast reads versions 1 and "
            f"{_CURRENT_VERSION}"
        )
    # A file whose checksum was cut out must not pass as one of version 1.
    if (version == _CURRENT_VERSION) != (recorded is not None):
        raise ValueError(
            f"{path} is corrupt: its version does not match the presence of a checksum"
        )
    return metadata


def write_json(
    path: str | os.PathLike[str], kind: str, content: dict[str, Any], *, overwrite: bool = False
) -> None:
    """Write a JSON file that names its own kind; a previous file is replaced only when all is written.

    Raises as `check_output` does.
    """
    # The text is complete before the file is opened, so an object that JSON cannot hold replaces
    # nothing.
    text = json.dumps({KEY: kind, **content}, indent=1)
    with replacing(check_output(path, kind, overwrite=overwrite)) as temporary:
        temporary.write_text(text)


def read_json(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Return the content that `write_json` wrote under this kind. Raises ValueError for any other file."""
    try:
        content = parse_json(path, Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a {kind}: {error}") from error
    if content.pop(KEY, None) != kind:
        raise ValueError(f"{path} is not a {kind}: it does not name that kind")
    return content
