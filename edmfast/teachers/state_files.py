"""States of networks in safetensors and .pt files, with a description in the file or from the caller."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from edmfast._internal.file_kinds import KEY
from edmfast._internal.json_text import parse_json

_STATES = ("state_dict", "ema", "model", "net", "network")
"""The names under which a .pt file may hold its state, the first one first."""
_DESCRIBING = ("network", "config", "sigma_data")

Contents = tuple[dict[str, Any], dict[str, Any]]
"""A state, and those of network, config and sigma_data that the file says."""


def is_saved_model(path: Path) -> bool:
    """Return whether a safetensors file was written by this package. Raises ValueError for a corrupt file."""
    try:
        with safe_open(path, framework="pt") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def read_safetensors(path: Path) -> Contents:
    """Return the contents of a safetensors file; its metadata may hold network, config as JSON, and sigma_data."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        # the handle is no mapping: it has keys() but cannot be iterated
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, a file is no dictionary
    said: dict[str, Any] = {name: header[name] for name in _DESCRIBING if name in header}
    if "config" in said:
        said["config"] = parse_json(path, said["config"])
    if "sigma_data" in said:
        try:
            said["sigma_data"] = float(said["sigma_data"])
        except ValueError as error:
            raise ValueError(
                f"{path} has sigma_data={said['sigma_data']!r} in its metadata, which is no number"
            ) from error
    return tensors, said


def read_torch(path: Path, key: str | None) -> Contents:
    """Return the contents of a .pt file, read by torch with weights_only=True, so that nothing of it runs.

    The file holds a state, or a dictionary with the state under `key`, by default the first of state_dict, ema,
    model, net and network, and perhaps network, config and sigma_data.
    Raises ValueError for a file with other objects, and for one that is damaged.
    """
    with path.open("rb"):
        pass  # a file that cannot be read raises its own error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    # a damaged file raises anything there, such as struct.error and OSError without a name
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is no file of tensors that torch.load(weights_only=True) reads: {reason}. Save the state as "
            "torch.save(network.state_dict(), path), or as safetensors"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, and no dictionary of tensors")
    names = _STATES if key is None else (key,)
    found = [name for name in names if isinstance(content.get(name), dict)]
    if key is not None and not found:
        raise ValueError(f"{path} has no dictionary named {key!r}")
    said = {name: content[name] for name in _DESCRIBING if found and _describes(content, name)}
    return (content[found[0]] if found else content), said


def _describes(content: dict[str, Any], name: str) -> bool:
    kinds: dict[str, tuple[type, ...]] = {
        "network": (str,),
        "config": (dict,),
        "sigma_data": (int, float),
    }
    return isinstance(content.get(name), kinds[name])


def read_config(path: Path) -> dict[str, Any]:
    """Return the dictionary of a JSON file. Raises ValueError for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    return parse_json(path, text)
