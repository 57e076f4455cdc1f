"""Models on disk: the weights in safetensors, and the arguments of the constructors as JSON metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edmfast._internal.file_kinds import MODEL, OTHER, kind_of
from edmfast._internal.files import read_tensors, write_tensors
from edmfast._internal.json_text import parse_json, shortened
from edmfast._internal.numbers import as_float
from edmfast.models.backbones import BACKBONES
from edmfast.models.denoiser import Denoiser
from edmfast.models.energy import EnergyModel
from edmfast.models.saving.rebuild import check_fits, rebuilt
from edmfast.models.saving.register import import_on_demand, known_backbones
from edmfast.models.two_heads import TwoHeads

_FORMAT, _VERSION = "edmfast-model", 1
Model = EnergyModel | Denoiser | TwoHeads
"""The models that can be saved."""


def describe_model(model: Model) -> dict[str, Any]:
    """Return the description from which a model is rebuilt, a dictionary that JSON can hold.

    Raises ValueError for a model of another class, for a backbone whose class is not registered or whose `config`
    is missing, and for a model whose tensors differ from those of a model rebuilt from the description.
    """
    if type(model) not in (EnergyModel, Denoiser, TwoHeads):
        raise ValueError(
            f"only an EnergyModel, a Denoiser or TwoHeads can be saved, given {type(model).__name__}"
        )
    name = type(model.backbone).__name__
    if BACKBONES.get(name) is not type(model.backbone):
        raise ValueError(
            f"backbone {name} is not registered, so a saved model could not be loaded again: keep the arguments "
            f"of its constructor as self.config, a dictionary that JSON can hold, and call "
            f"edmfast.models.register_backbone({name}) before saving and loading. Registered: {sorted(BACKBONES)}"
        )
    description = {
        "format": _FORMAT,
        "version": _VERSION,
        "kind": type(model).__name__,
        "sigma_data": model.sigma_data,
        "potential": getattr(model, "potential_name", None),
        "backbone": name,
        "config": _config_of(model.backbone),
    }
    try:
        # a model that cannot be rebuilt is refused now, not when it is loaded
        check_fits(lambda: _built(description, BACKBONES), model.state_dict())
    except Exception as error:
        raise ValueError(
            f"this model cannot be saved: its backbone's config does not rebuild it ({error}). Save the model "
            "before it is wrapped or patched, or let config hold all arguments of the constructor"
        ) from error
    return description


def _config_of(backbone: nn.Module) -> dict[str, Any]:
    config, name = getattr(backbone, "config", None), type(backbone).__name__
    contents = "the constructor's arguments by name, as JSON can hold them"
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise ValueError(f"{name}.config must be a dictionary of {contents}, given {config!r}")
    try:
        text = json.dumps(config, allow_nan=False, default=_number)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name}.config must hold {contents}: {error}") from error
    # the round trip gives the values that loading will see, such as lists for tuples
    return dict(parse_json(f"{name}.config", text))


def _number(value: Any) -> Any:
    """Return a NumPy number as a Python number, which JSON can hold."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"it holds a {type(value).__name__}")


def save_model(model: Model, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a model to path as one safetensors file.

    A saved model that is already there is replaced in one step, so that no reader sees half a file. A backbone of
    your own can be saved once `edmfast.models.register_backbone` has registered its class.

    Args:
        model: the model, whose tensors are written in their dtypes.
        path: the file, usually with the suffix .safetensors.
        overwrite: also replace a file of another kind.

    Raises:
        ValueError: a model that could not be loaded again (see `register_backbone`), or a path that is no file.
        FileExistsError: a file of another kind at path, without overwrite.
        FileNotFoundError: a folder that does not exist.
        OSError: a path that cannot be written.
    """
    metadata = describe_model(model)
    write_tensors(path, model.state_dict(), metadata, kind=MODEL, overwrite=overwrite)


def load_model(
    path: str | os.PathLike[str], *, backbones: Mapping[str, type[nn.Module]] | None = None
) -> Model:
    """Return the model saved at path: on the CPU, in the saved dtypes and in eval mode.

    Nothing that a file names is imported.

    Args:
        path: a file that `save_model` has written.
        backbones: further classes by name, besides the registered ones.

    Raises:
        FileNotFoundError: no file at path.
        ValueError: a file that is corrupt, of another kind, or whose weights do not fit its description. The error
            comes before memory is taken for the weights.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != _FORMAT:
        # the error says which kind of file it is instead, where that can be recognised
        kind = kind_of(Path(path))
        contents = shortened(metadata.get("format")) if kind == OTHER else f"a {kind}"
        raise ValueError(f"{path} holds {contents}, not a saved model ({_FORMAT!r})")
    if metadata.get("version") != _VERSION:
        version = shortened(metadata.get("version"))
        raise ValueError(
            f"{path} has format version {version}, this release reads version {_VERSION}"
        )
    name = metadata.get("backbone")
    import_on_demand(name)
    known = known_backbones(backbones)
    # the name is looked up only, so that a file cannot make a program import anything
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"{path} needs backbone {shortened(name)}, which is not registered: pass "
            f"load_model(path, backbones={{{shortened(name)}: its class}}) or call register_backbone with the "
            f"class. Registered: {sorted(known)}"
        )
    try:
        model = rebuilt(lambda: _built(metadata, known), tensors)
    except ImportError as error:
        raise ImportError(f"{path} cannot be loaded: {error}") from error
    # a constructor may raise anything for the arguments that a file holds
    except Exception as error:
        raise ValueError(f"{path} does not describe a loadable model: {error!r}") from error
    assert isinstance(model, (EnergyModel, Denoiser, TwoHeads))
    # a loaded model is for inference, and dropout must be off
    return model.eval()


def _built(metadata: dict[str, Any], known: Mapping[str, type[nn.Module]]) -> Model:
    config, kind = metadata.get("config"), metadata.get("kind")
    if not isinstance(config, dict):
        raise ValueError(f"config must be a dictionary, given {shortened(config)}")
    backbone = known[metadata["backbone"]](**config)
    sigma_data = as_float("sigma_data", metadata.get("sigma_data"), positive=True)
    if kind == "Denoiser":
        return Denoiser(backbone, sigma_data=sigma_data)
    if kind == "TwoHeads":
        return TwoHeads(backbone, sigma_data=sigma_data)
    if kind == "EnergyModel":
        potential = metadata.get("potential")
        if not isinstance(potential, str):
            raise ValueError(f"potential must be a name, given {shortened(potential)}")
        return EnergyModel(backbone, potential=potential, sigma_data=sigma_data)
    raise ValueError(f"kind must be EnergyModel, Denoiser or TwoHeads, given {shortened(kind)}")
