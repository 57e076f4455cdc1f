"""A local folder of diffusers as a denoiser: its network and the training law of its scheduler.

Nothing is downloaded, and no code of the folder runs: the class of the network must be one of diffusers' own.
Weights are read from safetensors only, unless the caller allows pickles of torch, which diffusers reads by
weights_only=True.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edmfast.diffusers import DiffusersDenoiser, as_denoiser
from edmfast.diffusers.network_class import network_class
from edmfast.teachers.state_files import read_config

_NETWORKS = ("unet", "transformer")


def load_folder(
    path: Path, dtype: torch.dtype | None, safetensors_only: bool, conditions: dict[str, Any]
) -> DiffusersDenoiser:
    """Return the denoiser of a folder of a pipeline, or of a network with a scheduler_config.json.

    conditions: conditions of every call. Raises ImportError without diffusers, and ValueError for a folder
    without a network or a scheduler, and for a class that diffusers does not have.
    """
    folder = _network_folder(path)
    settings = read_config(folder / "config.json")
    network = network_class(settings.get("_class_name"), f"the folder {folder}")
    law = _scheduler(path, folder)
    try:
        model = network.from_pretrained(
            folder,
            local_files_only=True,
            # None prefers safetensors and falls back to pickles
            use_safetensors=True if safetensors_only else None,
            torch_dtype=torch.float32 if dtype is None else dtype,
            low_cpu_mem_usage=False,
        )
    except OSError as error:
        hint = (
            ": pass safetensors_only=False to read .bin files too, by torch.load(weights_only=True)"
            if safetensors_only
            else ""
        )
        raise ValueError(f"{folder} has no weights that are read: {error}{hint}") from error
    return as_denoiser(model.eval(), law, **conditions)


def _network_folder(path: Path) -> Path:
    if (path / "model_index.json").is_file():
        folders = [path / name for name in _NETWORKS if (path / name / "config.json").is_file()]
        if folders:
            return folders[0]
    elif (path / "config.json").is_file():
        return path
    names = " or ".join(_NETWORKS)
    raise ValueError(
        f"{path} is no folder of diffusers with a network: it needs model_index.json and {names}, or config.json"
    )


def _scheduler(path: Path, folder: Path) -> dict[str, Any]:
    """Return the configuration of the scheduler beside a network."""
    places = (path / "scheduler", path, folder.parent / "scheduler")
    for place in places:
        file = place / "scheduler_config.json"
        if file.is_file():
            return read_config(file)
    raise ValueError(
        f"{path} has no scheduler_config.json, which says how the network was trained: put it into the folder, or "
        "call edmfast.diffusers.as_denoiser(network, scheduler_config)"
    )
