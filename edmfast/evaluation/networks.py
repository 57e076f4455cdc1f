"""Networks of features on disk: the weights in safetensors, and the name of a registered class.

A file names its class, which is looked up among the registered classes only, so that nothing that a file names
is imported. Weights that another program wrote have no such name, and are loaded into a network that the caller
builds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from edmfast._internal.file_kinds import FEATURES, kind_of
from edmfast._internal.files import read_tensors, write_tensors
from edmfast._internal.json_text import shortened

KIND = "features"
Class = TypeVar("Class", bound=type[nn.Module])
_NETWORKS: dict[str, type[nn.Module]] = {}


def register_features(cls: Class) -> Class:
    """Let `save_features` and `load_features` accept networks of this class, and return the class.

    The function can be used as a decorator. A class replaces an earlier one of the same name, as when the cell of
    a notebook runs again.

    Args:
        cls: a subclass of nn.Module, called as network(x [B, *shape]) -> features [B, F]. Its instances may carry
            the arguments of their constructor as `config`, a dictionary that JSON can hold.

    Raises:
        TypeError: anything but a subclass of nn.Module.
    """
    if not isinstance(cls, type) or not issubclass(cls, nn.Module):
        raise TypeError(f"register_features takes a subclass of nn.Module, given {cls!r}")
    _NETWORKS[cls.__name__] = cls
    return cls


def save_features(
    network: nn.Module, path: str | os.PathLike[str], *, overwrite: bool = False, **notes: Any
) -> None:
    """Write a network of features to path as one safetensors file, from which `load_features` builds it again.

    Args:
        network: an instance of a registered class.
        path: the file, usually with the suffix .safetensors.
        overwrite: also replace a file of another kind.
        notes: further entries of the file, which JSON can hold.

    Raises:
        ValueError: a class that is not registered, or a config that JSON cannot hold.
        FileExistsError: a file of another kind at path, without overwrite.
        OSError: a path that cannot be written.
    """
    name = type(network).__name__
    if _NETWORKS.get(name) is not type(network):
        raise ValueError(
            f"{name} is not registered: call edmfast.evaluation.register_features({name}) before saving and "
            f"loading. Registered: {sorted(_NETWORKS)}"
        )
    config = getattr(network, "config", {})
    try:
        json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}.config must be a dictionary that JSON can hold: {error}"
        ) from error
    metadata = {**notes, "kind": KIND, "network": name, "config": config}
    write_tensors(path, network.state_dict(), metadata, kind=FEATURES, overwrite=overwrite)


def read_features(path: Path, network: nn.Module | Callable[[], nn.Module] | None) -> nn.Module:
    """Return the network of a safetensors file, in eval mode and without gradients.

    network: the network for weights that `save_features` did not write, or a function without arguments that
    builds it. Raises ValueError for a file that fits no network, and TypeError for anything else as `network`.
    """
    tensors: Mapping[str, torch.Tensor]
    if network is not None:
        built = network if isinstance(network, nn.Module) else network()
        if not isinstance(built, nn.Module):
            raise TypeError(
                f"network must be a network or build one, and it built {type(built).__name__}"
            )
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    elif kind_of(path) == FEATURES:
        tensors, metadata = read_tensors(path)
        built = _built(path, metadata)
    else:
        raise ValueError(
            f"{path} does not name its network: pass network=, a network or a function that builds it, into which "
            "the weights are loaded"
        )
    try:
        built.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit the network: {error}") from error
    return built.eval().requires_grad_(False)


def _built(path: Path, metadata: dict[str, Any]) -> nn.Module:
    name, config = metadata.get("network"), metadata.get("config")
    if not isinstance(name, str) or name not in _NETWORKS:
        raise ValueError(
            f"{path} needs the network {shortened(name)}, which is not registered: call register_features with "
            f"its class first. Registered: {sorted(_NETWORKS)}"
        )
    if not isinstance(config, dict):
        raise ValueError(f"{path} has corrupt metadata: config is {shortened(config)}")
    try:
        return _NETWORKS[name](**config)
    # a constructor may raise anything for the arguments that a file holds
    except Exception as error:
        raise ValueError(f"{path} does not describe a network: {error!r}") from error
