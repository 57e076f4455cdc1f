"""The entry point `load_teacher`: a denoiser from a file, a folder, or the program itself."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from edmfast._internal.numbers import as_bool
from edmfast.models.calling.origin import name_of
from edmfast.models.protocols import Denoiser
from edmfast.models.saving.save_load import load_model
from edmfast.teachers.description import (
    HALVES,
    build_denoiser,
    check_description,
    check_sharing,
    state_of_network,
    without_halves,
)
from edmfast.teachers.folder import load_folder
from edmfast.teachers.nvlabs import described, network_of
from edmfast.teachers.pickles.read import read_pickle
from edmfast.teachers.state_files import is_saved_model, read_config, read_safetensors, read_torch

_IN_PROGRAM = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*):([A-Za-z_]\w*(?:\.\w+)*)")
_TORCH_FILES = (".pt", ".pth", ".ckpt", ".bin")
_FLOATS = (torch.float32, torch.float64, *HALVES)


def load_teacher(
    path: str | os.PathLike[str] | Denoiser,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    network: str | None = None,
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    sigma_data: float | None = None,
    key: str | None = None,
    backbones: Mapping[str, type[nn.Module]] | None = None,
    safetensors_only: bool = True,
    **conditions: Any,
) -> Denoiser:
    """Return a denoiser D(x [B, *shape], sigma [B], **condition) -> x0 from a file, a folder or the program.

    | path | what is read |
    |---|---|
    | a file of `save_model` | the model, which may be an energy too |
    | `.safetensors` | a state; network, config and sigma_data from its metadata or from the arguments |
    | `.pt`, `.pth`, `.ckpt`, `.bin` | the same, by `torch.load(weights_only=True)`; see `key` |
    | `.pkl` | a network of EDM or EDM2, by a reader that runs nothing of the file |
    | a folder | a network of diffusers with its scheduler; nothing is downloaded |
    | `"module:name"` | a denoiser of your program: the module is imported, which runs it |
    | a callable | the callable itself; a module is moved to device and dtype |

    States load strictly: the error of a config that does not fit names a parameter that differs. The denoiser is
    in eval mode.

    Source of the networks: Karras et al. 2022, arXiv 2206.00364; Karras et al. 2024, arXiv 2312.02696.

    Args:
        path: see the table.
        device: where the denoiser lies; the CPU for files, by default.
        dtype: float32, float64, float16 or bfloat16 for all its numbers. By default they keep their dtype, except
            that half precisions become float32, the dtype of states.
        network: the class of the network of a bare state, a name of `edmfast.models.BACKBONES` or of `backbones`.
        config: the arguments of that class, as a dictionary or a JSON file.
        sigma_data: the standard deviation of the data for a bare state; 0.5 by default.
        key: the name of the network in a `.pkl`, by default "ema", or of the state in a `.pt`.
        backbones: further classes of networks by name.
        safetensors_only: refuse pickled weights in a folder of diffusers. False reads them by
            `torch.load(weights_only=True)`.
        conditions: conditions of every call for a folder of diffusers.

    Raises:
        FileNotFoundError: no file or folder at path.
        UnsafePickleError: a ValueError; a pickle that names anything outside the list of what is read. Nothing of
            it has run.
        ValueError: a file of another kind, one that is damaged, a state without a description, or one that does
            not fit it.
        TypeError: a path that is none, or arguments that this kind of path does not take.
        ImportError: a folder of diffusers without that package, or a module that is not there.
    """
    if dtype is not None and dtype not in _FLOATS:
        raise TypeError(f"dtype must be float32, float64, float16 or bfloat16, given {dtype}")
    safetensors_only = as_bool("safetensors_only", safetensors_only)
    options = {
        "network": network,
        "config": config,
        "sigma_data": sigma_data,
        "key": key,
        "backbones": backbones,
    }
    set_options = {name: value for name, value in options.items() if value is not None}
    if not isinstance(path, (str, os.PathLike)):
        _refuse("a callable", {**set_options, **conditions})
        return _placed(_checked(path), device, dtype, keep_halves=True)
    place = Path(path)
    named = _IN_PROGRAM.fullmatch(path) if isinstance(path, str) else None
    if named is not None and not place.exists():
        _refuse("a name of the program", {**set_options, **conditions})
        return _placed(_imported(*named.groups()), device, dtype, keep_halves=True)
    if place.is_dir():
        _refuse("a folder of diffusers", set_options)
        return _placed(load_folder(place, dtype, safetensors_only, conditions), device, dtype)
    _refuse("a file", conditions)
    if not place.is_file():
        raise FileNotFoundError(f"no file or folder {place}")
    return _placed(_from_file(place, options), device, dtype)


def _from_file(path: Path, options: dict[str, Any]) -> nn.Module:
    kind = path.suffix.lower()
    given = {name: value for name, value in options.items() if value is not None}
    if kind == ".pkl":
        _refuse("a .pkl file", {name: given[name] for name in given if name != "key"})
        content = read_pickle(path)
        try:
            description, state = described(network_of(content, options["key"]))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return _built(path, description, state, None)
    if kind == ".safetensors" and is_saved_model(path):
        _refuse("a saved model", {name: given[name] for name in given if name != "backbones"})
        return load_model(path, backbones=options["backbones"])
    if kind == ".safetensors":
        tensors, said = read_safetensors(path)
    elif kind in _TORCH_FILES:
        tensors, said = read_torch(path, options["key"])
    else:
        raise ValueError(
            f"{path} must be a .safetensors, .pkl or {', '.join(_TORCH_FILES)} file, a folder of diffusers, or "
            "module:name"
        )
    if isinstance(given.get("config"), (str, os.PathLike)):
        given["config"] = read_config(Path(given["config"]))
    said = {"sigma_data": 0.5, **said, **given}
    if "network" not in said or "config" not in said:
        raise ValueError(
            f"{path} is a bare state, and does not say which network it belongs to: pass network= the name of its "
            "class, such as 'SongUNet', and config= the arguments of its constructor"
        )
    backbones = options["backbones"]
    try:
        described_by = said["network"], said["config"], said["sigma_data"]
        description = check_description(*described_by, backbones)
        state = state_of_network(tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return _built(path, description, state, backbones)


def _built(path: Path, description: Any, state: dict[str, Tensor], backbones: Any) -> nn.Module:
    try:
        check_sharing(state)
        return build_denoiser(description, without_halves(state), backbones)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _imported(module: str, attribute: str) -> Denoiser:
    """Return a denoiser of an importable module. The import runs the module, by the caller's own request."""
    value: Any = importlib.import_module(module)
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise ImportError(f"the module {module} has no {attribute}")
        value = getattr(value, part)
    return _checked(value)


def _checked(teacher: Any) -> Denoiser:
    if not callable(teacher) or isinstance(teacher, type):
        kind = f"the class {name_of(teacher)}" if isinstance(teacher, type) else name_of(teacher)
        raise TypeError(
            f"a teacher must be a path, or a denoiser called as teacher(x, sigma) -> x0, given {kind}"
        )
    return cast(Denoiser, teacher)


def _placed(
    teacher: Denoiser | nn.Module,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    *,
    keep_halves: bool = False,
) -> Denoiser:
    """Return a teacher on a device and in a dtype, in eval mode where it comes from a file."""
    if not isinstance(teacher, nn.Module):
        if device is not None or dtype is not None:
            raise TypeError(
                f"device and dtype cannot move {name_of(teacher)}, which is no torch.nn.Module: move it yourself"
            )
        return teacher
    if dtype is None and not keep_halves:
        floats = {p.dtype for p in teacher.parameters() if p.dtype in HALVES}
        dtype = torch.float32 if floats else None
    if device is not None or dtype is not None:
        teacher = teacher.to(device=device, dtype=dtype)
    return cast(Denoiser, teacher)


def _refuse(what: str, options: Mapping[str, Any]) -> None:
    if options:
        raise TypeError(f"{what} takes no {', '.join(sorted(options))}: leave it out")
