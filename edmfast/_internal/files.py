"""safetensors files with JSON metadata, and JSON files, written whole or not at all. Nothing is unpickled.

Files of tensors carry a checksum of all that they hold (see `edmfast._internal.checksum`), compared before
anything of them is used. Files of version 1 have none and are read without.
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

_MARK, _BETWEEN, _VERSION = '{"sha256": "', '", ', "file_version"
_NOW = 2


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    metadata: dict[str, Any],
    *,
    kind: str,
    overwrite: bool = False,
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> None:
    """Write tensors and JSON-able metadata; a previous file is replaced only when all is written.

    kind: what the file is, one of `edmfast._internal.file_kinds`. Raises as `check_output` does.
    """
    path = check_output(path, kind, inputs=inputs, overwrite=overwrite)
    # safetensors refuses shared or strided memory, so every tensor is written from a copy of its own
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({_VERSION: _NOW, **metadata})
    # in one entry, since safetensors writes several in any order and the same content must have the same bytes
    header = {KEY: f"{_MARK}{checksum(plain, text)}{_BETWEEN}{text[1:]}"}
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, metadata=header)
        except SafetensorError as error:  # its own word for a disk that is full
            raise OSError(f"cannot write {path}: {error}") from error


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return (tensors on the CPU, metadata) of a file that `write_tensors` made.

    Raises FileNotFoundError, or ValueError for a file that is corrupt or not ours.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # the handle is no mapping: it has keys() but cannot be iterated
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if KEY not in header:
        raise ValueError(f"{path} was not written by edmfast: it has no {KEY!r} metadata")
    return tensors, _verified(path, tensors, header)


def _verified(
    path: Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]
) -> dict[str, Any]:
    """Return the metadata of a file whose checksum is right, or which is of the version that had none."""
    text, wanted = header[KEY], None
    if text.startswith(_MARK):
        wanted, text = text[len(_MARK) :][:64], "{" + text[len(_MARK) + 64 + len(_BETWEEN) :]
    whole = f"{_MARK}{wanted}{_BETWEEN}{text[1:]}" if wanted is not None else text
    if (
        header.keys() != {KEY}
        or whole != header[KEY]
        or (wanted is not None and wanted != checksum(tensors, text))
    ):
        raise ValueError(
            f"{path} is corrupt: what it holds does not have the checksum that it was written with. Use an older "
            "copy of it"
        )
    metadata = parse_json(path, text)
    version = metadata.pop(_VERSION, 1)
    if version not in (1, _NOW) or isinstance(version, bool):
        raise ValueError(
            f"{path} has file version {shortened(version)}, this edmfast reads 1 and {_NOW}"
        )
    if (version == _NOW) != (wanted is not None):
        raise ValueError(f"{path} is corrupt: its version and its checksum do not go together")
    return metadata


def write_json(
    path: str | os.PathLike[str], kind: str, content: dict[str, Any], *, overwrite: bool = False
) -> None:
    """Write JSON that says of what kind it is. Raises as `check_output` does."""
    text = json.dumps({KEY: kind, **content}, indent=1)
    with replacing(check_output(path, kind, overwrite=overwrite)) as temporary:
        temporary.write_text(text)


def read_json(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Return what `write_json` wrote of this kind. ValueError for anything else."""
    try:
        content = parse_json(path, Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a {kind}: {error}") from error
    if content.pop(KEY, None) != kind:
        raise ValueError(f"{path} is not a {kind}: it does not say that it is one")
    return content
