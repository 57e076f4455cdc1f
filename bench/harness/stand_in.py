"""A stand-in for a GPU: tensors without numbers that the code takes for tensors on a CUDA device.

Inside `stand_in` a request for a CUDA device makes tensors on torch's meta device, and these tensors say that they
are on "cuda:0". Code that asks for the device therefore goes the way that it goes on a GPU, and shapes, dtypes and
derivatives are right, but nothing is computed and no GPU is needed. It works with every build of torch. Layouts
that a library of convolutions would choose are unknown, and with them some copies inside a U-Net. Operators with
Triton kernels count as live there.

torch's own fake tensors of a CUDA device need a CUDA build of torch, since their derivatives ask the driver for
the device: see `bench.harness.fake_cuda`.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils

from edmfast import _library
from edmfast._internal import generators as generators_module

DEVICE = torch.device("cuda", 0)
# torch's annotations call this property a bool
_IS_CUDA: Any = torch.Tensor.is_cuda.__get__  # type: ignore[attr-defined]
_GET_DEVICE: Any = torch.Tensor.device.__get__
_MAKERS = (torch.tensor, torch.as_tensor, torch.asarray)
_OPERATORS = "attention, mlp_potential, norms, potential"


class Generator(torch.Generator):
    """A random generator of the CPU that says it is one of the device."""

    device = DEVICE


def _generator(device: Any = "cpu") -> torch.Generator:
    return Generator() if torch.device(device).type == "cuda" else torch.Generator(device)


class _StandIn(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function == _IS_CUDA:
            return args[0].is_meta
        if function == _GET_DEVICE:
            device = function(*args)
            return DEVICE if device.type == "meta" else device
        if function is torch.device:
            return function(*args, **(kwargs or {}))
        options = {name: _meta(value) for name, value in (kwargs or {}).items()}
        if function in _MAKERS and str(options.get("device")) == "meta":
            # torch makes the tensor on the host first, which it would leave out for the meta device
            del options["device"]
            return function(*map(_meta, args), **options).to("meta")
        return function(*map(_meta, args), **options)


def _meta(value: Any) -> Any:
    """Return the meta device in place of a CUDA device, and anything else as it is."""
    if isinstance(value, torch.device):
        return torch.device("meta") if value.type == "cuda" else value
    return "meta" if isinstance(value, str) and value.startswith("cuda") else value


@contextlib.contextmanager
def stand_in() -> Iterator[None]:
    """Let tensors of a CUDA device be stand-ins within the block.

    Raises RuntimeError where Triton is not installed, without which a GPU runs other code.
    """
    if importlib.util.find_spec("triton") is None:
        raise RuntimeError("triton is not installed, without which a GPU runs other code")
    live = mock.patch.dict(_library.loaded, triton=_OPERATORS)
    # where torch asks a tensor in C++ for its device, it still learns the true one
    supported = "_get_foreach_kernels_supported_devices"
    lists = mock.patch.object(_foreach_utils, supported, return_value=["cuda", "meta"])
    generators = mock.patch.object(
        generators_module, "torch", SimpleNamespace(Generator=_generator)
    )
    with live, lists, generators, _StandIn():
        yield
