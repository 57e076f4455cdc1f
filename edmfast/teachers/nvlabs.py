"""Networks in the pickles of EDM and EDM2: their classes and states as denoisers of this package.

A file holds a dictionary with the averaged network under "ema", or the network itself. The network is a
preconditioning, whose record has the numbers of the scaling, around the U-Net, whose record has the arguments of
its constructor and the state. Classes that are read:

| class in the file | U-Net inside | denoiser here |
|---|---|---|
| EDMPrecond | SongUNet, DhariwalUNet | Denoiser(the same) |
| VPPrecond, VEPrecond, iDDPMPrecond | the same | Denoiser(RescaledNetwork(the same)) |
| Precond (EDM2) | UNet | Denoiser(EDM2UNet) |

Sources: Karras et al. 2022, arXiv 2206.00364, table 1; Karras et al. 2024, arXiv 2312.02696.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from edmfast._internal.json_text import shortened
from edmfast.models.saving.register import known_backbones
from edmfast.teachers.description import Description, check_description
from edmfast.teachers.pickles.stand_ins import Record, printable

_KEYS = ("ema", "net", "model")
"""The names under which a file may hold its network, the first one first."""
_UNETS = {"SongUNet": "SongUNet", "DhariwalUNet": "DhariwalUNet", "UNet": "EDM2UNet"}
_KINDS = {"VPPrecond": "vp", "VEPrecond": "ve", "iDDPMPrecond": "iddpm"}
_SCALING = ("beta_d", "beta_min", "M", "C_1", "C_2")
_INSIDE = {**dict.fromkeys(("EDMPrecond", *_KINDS), "model"), "Precond": "unet"}
_COMMON = ("img_resolution", "img_channels", "label_dim", "use_fp16")
_ORDER = {
    "VPPrecond": (*_COMMON, "beta_d", "beta_min", "M", "epsilon_t", "model_type"),
    "VEPrecond": (*_COMMON, "sigma_min", "sigma_max", "model_type"),
    "iDDPMPrecond": (*_COMMON, "C_1", "C_2", "M", "model_type"),
    "EDMPrecond": (*_COMMON, "sigma_min", "sigma_max", "sigma_data", "model_type"),
    "Precond": (*_COMMON, "sigma_data", "logvar_channels"),
}
_MOST_PARTS, _DEEPEST, _LONGEST_NAME = 100_000, 64, 1000
_MOST_NUMBERS, _MOST_INSIDE = 1000, 16
"""The most numbers of a list among the arguments, and of a list inside another one."""


def network_of(content: Any, key: str | None) -> Record:
    """Return the record of the network in the content of a file.

    key: its name in the file's dictionary; by default the first of ema, net and model. Raises ValueError where
    there is none.
    """
    if isinstance(content, Record) and key is None:
        return content
    if not isinstance(content, dict):
        raise ValueError(
            f"the file holds a {type(content).__name__}, and no dictionary with a network"
        )
    networks = {name: value for name, value in content.items() if isinstance(value, Record)}
    for name in _KEYS if key is None else (key,):
        if name in networks:
            return networks[name]
    wanted = " or ".join(_KEYS) if key is None else key
    raise ValueError(
        f"the file has no network named {wanted}; its objects are {shortened(sorted(map(str, networks)))}: "
        "pass key= one of them"
    )


def described(record: Record) -> tuple[Description, dict[str, Tensor]]:
    """Return the description of a network in this package, and the state of its U-Net.

    Raises ValueError for a class that is not read, and for arguments that the U-Net here does not take.
    """
    name = record.class_name
    if name not in _INSIDE:
        raise ValueError(
            f"the network is a {printable(name)}, which is not read; read are {', '.join(sorted(_INSIDE))}"
        )
    unet = _members(record, "_modules").get(_INSIDE[name])
    if not isinstance(unet, Record) or unet.class_name not in _UNETS:
        kind = printable(unet.class_name) if isinstance(unet, Record) else type(unet).__name__
        raise ValueError(
            f"the {name} holds a {kind} as {_INSIDE[name]}, which is not read; read are {', '.join(_UNETS)}"
        )
    # the attributes are what the network computes with
    settings = {**_arguments(record, _ORDER[name]), **record.state}
    sigma_data = settings.get("sigma_data", 0.5)
    network = _UNETS[unet.class_name]
    cls = known_backbones(None).get(network)
    # an unknown class is refused below, with the names of the others
    order = [] if cls is None else [*inspect.signature(cls).parameters]
    config, state = _arguments(unet, order), dict(_tensors(unet))
    inner = check_description(network, config, sigma_data, None)
    if name not in _KINDS:
        return inner, state
    scaling = {key: _plain(settings[key]) for key in _SCALING if key in settings}
    outer = {"kind": _KINDS[name], "network": network, "config": config, **scaling}
    description = check_description("RescaledNetwork", outer, inner.sigma_data, None)
    return description, {f"network.{key}": tensor for key, tensor in state.items()}


def _arguments(record: Record, order: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of a record's constructor by name. order: the names of positional ones."""
    positional = record.state.get("_init_args", ())
    named = record.state.get("_init_kwargs", {})
    if not isinstance(positional, (list, tuple)) or not isinstance(named, dict):
        raise ValueError(f"the {printable(record.class_name)} has no arguments of a constructor")
    if len(positional) > len(order):
        raise ValueError(
            f"the {printable(record.class_name)} has {len(positional)} positional arguments, at most {len(order)} "
            "are read"
        )
    arguments = {**dict(zip(order, positional, strict=False)), **named}
    return {str(name): _plain(value) for name, value in arguments.items()}


def _plain(value: Any, depth: int = 0) -> Any:
    """Return an argument as JSON can hold it. Raises ValueError for other values."""
    if isinstance(value, np.ndarray) and value.size <= _MOST_NUMBERS:
        value = value.tolist()
    # a list that holds one list many times would grow with the power of the depth
    longest = _MOST_NUMBERS if depth == 0 else _MOST_INSIDE
    if isinstance(value, (list, tuple)) and depth < 3 and len(value) <= longest:
        return [_plain(part, depth + 1) for part in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"an argument of the network is a {type(value).__name__}, which is not read")


def _tensors(record: Record) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of a module's state, parameters and kept buffers, as state_dict names them."""
    count = 0
    pending = [("", record, 0)]
    # modules may hold each other in circles, and share parts
    while pending:
        prefix, module, depth = pending.pop()
        left_out = module.state.get("_non_persistent_buffers_set") or frozenset()
        if not isinstance(left_out, (set, frozenset)):
            raise ValueError(f"the {printable(module.class_name)} has no set of buffers")
        groups = [_members(module, kind) for kind in ("_parameters", "_buffers", "_modules")]
        count += 1 + sum(map(len, groups))
        longest = max((len(str(name)) for group in groups for name in group), default=0)
        if count > _MOST_PARTS or depth > _DEEPEST or len(prefix) + longest > _LONGEST_NAME:
            raise ValueError("the network has more modules than any that is read")
        parameters, buffers, modules = groups
        for name, tensor in {**parameters, **buffers}.items():
            if isinstance(tensor, Tensor) and name not in left_out:
                yield f"{prefix}{name}", tensor
        for name, child in modules.items():
            if isinstance(child, Record):
                pending.append((f"{prefix}{name}.", child, depth + 1))


def _members(record: Record, kind: str) -> dict[str, Any]:
    members = record.state.get(kind, {})
    if not isinstance(members, dict):
        raise ValueError(f"the {kind} of a {printable(record.class_name)} are no dictionary")
    return members
