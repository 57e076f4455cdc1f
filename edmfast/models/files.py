"""safetensors files with JSON metadata, and JSON files, written whole or not at all. Nothing is unpickled."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_KEY = "edmfast"


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: dict[str, Any]
) -> None:
    """Write tensors and JSON-able metadata; a previous file is replaced only when all is written.

    Raises FileNotFoundError where the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
    # An exclusive copy per tensor: safetensors refuses shared or strided memory.
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask gives; save_file makes files private
        save_file(plain, temporary, metadata={_KEY: json.dumps(metadata)})
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors on the CPU, metadata) of a file `write_tensors` made.

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
    if _KEY not in header:
        raise ValueError(f"{path} was not written by edmfast: it has no {_KEY!r} metadata")
    try:
        metadata = json.loads(header[_KEY])
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} has corrupt metadata: {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} has corrupt metadata: a {type(metadata).__name__}")
    return tensors, metadata


def write_json(path: str | os.PathLike[str], kind: str, content: dict[str, Any]) -> None:
    """Write JSON that says of what kind it is."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    temporary.write_text(json.dumps({_KEY: kind, **content}, indent=1))
    os.replace(temporary, path)


def read_json(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """What `write_json` wrote of this kind. ValueError for anything else."""
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text())
        if content.pop(_KEY) != kind:
            raise KeyError(_KEY)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a {kind}: {error!r}") from error
    return content
