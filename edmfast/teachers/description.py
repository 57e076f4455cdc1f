"""The description of a network in a foreign file, and the denoiser that it gives together with a state."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.json_text import shortened
from edmfast._internal.numbers import as_float
from edmfast.models import Denoiser
from edmfast.models.saving.rebuild import rebuilt
from edmfast.models.saving.register import known_backbones

_LONGEST, _MOST_SHARING = 400, 4
HALVES = (torch.float16, torch.bfloat16)
_PREFIXES = re.compile(r"(backbone|model|module|net|network|unet|ema|_orig_mod)\.")
# the uncertainty that EDM2 learns for its loss weights, which no denoiser needs
_NOT_OF_THE_NETWORK = re.compile(r"(.*\.)?logvar_(fourier|linear)\..*")


@dataclasses.dataclass(frozen=True)
class Description:
    """A network by the name of its class, the arguments of its constructor, and the sigma_data of its denoiser."""

    network: str
    config: Mapping[str, Any]
    sigma_data: float = 0.5


def check_description(
    network: Any, config: Any, sigma_data: Any, backbones: Mapping[str, type[nn.Module]] | None
) -> Description:
    """Return a description. Raises TypeError or ValueError for an unknown network, or arguments that it lacks."""
    known = known_backbones(backbones)
    if not isinstance(network, str) or network not in known:
        raise ValueError(
            f"network must be one of {', '.join(sorted(known))}, given {shortened(network)}: register another "
            "class by edmfast.models.register_backbone, or pass backbones={name: class}"
        )
    if not isinstance(config, Mapping) or not all(isinstance(name, str) for name in config):
        raise TypeError(
            f"config must be a dictionary of the arguments of {network}, given {shortened(config)}"
        )
    try:
        inspect.signature(known[network]).bind(**config)
    except TypeError as error:
        raise ValueError(f"config does not fit {network}: {error}") from error
    return Description(network, config, as_float("sigma_data", sigma_data, positive=True))


def build_denoiser(
    description: Description,
    state: Mapping[str, Tensor],
    backbones: Mapping[str, type[nn.Module]] | None = None,
) -> Denoiser:
    """Return the described denoiser with the state of its network, in eval mode and in the dtypes of the state.

    state: tensors by the names that the network gives them. Raises ValueError where the network has other tensors;
    the error names one that differs, and comes before memory is taken for the network.
    """
    cls = known_backbones(backbones)[description.network]

    def build() -> Denoiser:
        return Denoiser(cls(**description.config), sigma_data=description.sigma_data)

    tensors = {f"backbone.{name}": tensor for name, tensor in state.items()}
    try:
        model = rebuilt(build, tensors)
    # a constructor may raise anything for the arguments that a file holds
    except Exception as error:
        raise ValueError(f"the state does not fit {_shown(description)}: {error}") from error
    assert isinstance(model, Denoiser)
    return model.eval()


def state_of_network(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a state without the prefixes that all its names share, such as "model.", and without log-variances.

    Raises ValueError for values that are no dense tensors.
    """
    others = [
        name
        for name, value in tensors.items()
        if not (isinstance(name, str) and isinstance(value, Tensor) and is_plain(value))
    ]
    if others or not tensors:
        raise ValueError(
            f"a state must be a dictionary of dense tensors by name, given {len(tensors)} entries of which "
            f"{shortened(others)} are none"
        )
    state = {name: value for name, value in tensors.items() if not _NOT_OF_THE_NETWORK.match(name)}
    while state:
        match = _PREFIXES.match(next(iter(state)))
        if match is None or not all(name.startswith(match[0]) for name in state):
            return state
        state = {name.removeprefix(match[0]): value for name, value in state.items()}
    return state


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is made of stored numbers, and not sparse, nested, quantised or without numbers."""
    dense = tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized
    return dense and not tensor.is_meta


def check_sharing(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError for tensors that share so many of their numbers that a network of them would be far larger.

    A file of a few megabytes could otherwise describe a network of hundreds of gigabytes and hold its tensors.
    """
    storages = [tensor.untyped_storage() for tensor in state.values()]
    stored = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    needed = sum(tensor.nbytes for tensor in state.values())
    if needed > _MOST_SHARING * stored + (1 << 20):
        raise ValueError(
            f"the tensors of the state have {needed} bytes, and share {stored} bytes of the file"
        )


def without_halves(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with float32 in the place of half precisions, in which files are often stored."""
    return {name: t.float() if t.dtype in HALVES else t for name, t in state.items()}


def _shown(description: Description) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in description.config.items())
    text = f"{description.network}({arguments})"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
