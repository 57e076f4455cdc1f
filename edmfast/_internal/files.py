"""safetensors files with JSON metadata, and JSON files, written whole or not at all. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edmfast._internal.kinds import KEY
from edmfast._internal.output import check_output, replacing


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

    kind: what the file is, one of `edmfast._internal.kinds`. Raises as `check_output` does.
    """
    path = check_output(path, kind, inputs=inputs, overwrite=overwrite)
    # safetensors refuses shared or strided memory, so every tensor is written from a copy of its own
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, metadata={KEY: json.dumps(metadata)})
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
    try:
        metadata = json.loads(header[KEY])
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} has corrupt metadata: {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} has corrupt metadata: a {type(metadata).__name__}")
    return tensors, metadata


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
        content: dict[str, Any] = json.loads(Path(path).read_text())
        if content.pop(KEY) != kind:
            raise KeyError(KEY)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a {kind}: {error!r}") from error
    return content
