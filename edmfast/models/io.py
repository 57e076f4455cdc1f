"""Models on disk: weights in safetensors, the constructor's arguments as JSON metadata."""

from __future__ import annotations

import os
from typing import Any

from edmfast._internal.files import read_tensors, write_tensors
from edmfast._internal.kinds import MODEL
from edmfast.models.backbones import BACKBONES
from edmfast.models.energy import Denoiser, EnergyModel

_FORMAT, _VERSION = "edmfast-model", 1


def describe_model(model: EnergyModel | Denoiser) -> dict[str, Any]:
    """The JSON-able description a model is rebuilt from.

    Raises ValueError for another class, or a backbone that is not in `BACKBONES`.
    """
    if type(model) not in (EnergyModel, Denoiser):
        raise ValueError(f"can save EnergyModel and Denoiser, given {type(model).__name__}")
    name = type(model.backbone).__name__
    if BACKBONES.get(name) is not type(model.backbone):
        raise ValueError(f"backbone {name} is not registered; BACKBONES has {sorted(BACKBONES)}")
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "kind": type(model).__name__,
        "sigma_data": model.sigma_data,
        "potential": getattr(model, "potential_name", None),
        "backbone": name,
        "config": model.backbone.config,
    }


def save_model(
    model: EnergyModel | Denoiser, path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write model to path (safetensors). A saved model already there is replaced in one step.

    overwrite: replace a file of another kind too, which otherwise raises FileExistsError.
    Raises as `describe_model` does; FileNotFoundError where the folder does not exist, ValueError or OSError where
    the path names no regular file or cannot be written.
    """
    metadata = describe_model(model)
    write_tensors(path, model.state_dict(), metadata, kind=MODEL, overwrite=overwrite)


def load_model(path: str | os.PathLike[str]) -> EnergyModel | Denoiser:
    """The model saved at path: on the CPU, in the saved dtype, in eval mode.

    Raises FileNotFoundError; ValueError naming what is wrong with a file that is corrupt, of
    another kind, or whose weights do not fit its description.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{path} holds {metadata.get('format')!r}, not {_FORMAT!r}")
    if metadata.get("version") != _VERSION:
        raise ValueError(f"{path} has version {metadata.get('version')}, this reads {_VERSION}")
    name = metadata.get("backbone")
    if name not in BACKBONES:
        raise ValueError(f"{path} needs backbone {name!r}; BACKBONES has {sorted(BACKBONES)}")
    try:
        model = _rebuild(metadata)
        floating = next(iter(t.dtype for t in tensors.values() if t.is_floating_point()))
        model.to(floating).load_state_dict(tensors)
    except (RuntimeError, TypeError, KeyError, ValueError, StopIteration) as error:
        raise ValueError(f"{path} does not describe a loadable model: {error!r}") from error
    return model.eval()


def _rebuild(metadata: dict[str, Any]) -> EnergyModel | Denoiser:
    backbone = BACKBONES[metadata["backbone"]](**metadata["config"])
    sigma_data = metadata["sigma_data"]
    if metadata["kind"] == "Denoiser":
        return Denoiser(backbone, sigma_data=sigma_data)
    if metadata["kind"] == "EnergyModel":
        return EnergyModel(backbone, potential=metadata["potential"], sigma_data=sigma_data)
    raise ValueError(f"kind {metadata['kind']!r} is neither EnergyModel nor Denoiser")
