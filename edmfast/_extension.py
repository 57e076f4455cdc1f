"""Define operators, and answer which backends are live.

`_library` loads the compiled libraries. Where there is none, `define` registers the same operators from Python.
An operator runs on the first of these that there is:

on the CPU: the C++ kernel; torch's own CPU kernels, for operators that name some; the plain-torch reference.
on a GPU: the CUDA kernel; the Triton kernel; the plain-torch reference.

The environment variable EDMFAST_REFERENCE=1 makes every operator run its reference.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import torch

from edmfast._library import NAMESPACE, REFERENCE, load, loaded, reasons

OPERATORS: Any = getattr(torch.ops, NAMESPACE)
# torch leaves some functions of this module without annotations
_LIBRARY: Any = torch.library
_FRAGMENT = _LIBRARY.Library(NAMESPACE, "FRAGMENT")


def _triton(folder: str, name: str) -> Callable[..., object]:
    """Return the function `name` of `ops.<folder>.triton_ops`.

    The first call imports that module, and Triton with it, so that importing the operators stays quick.
    """

    def call(*arguments: object) -> object:
        module = importlib.import_module(f".ops.{folder}.triton_ops", __package__)
        return getattr(module, name)(*arguments)

    return call


def define(
    schema: str,
    reference: Callable[..., object],
    fake: Callable[..., object],
    cpu: Callable[..., object] | None = None,
    triton: str | None = None,
) -> None:
    """Register an operator, with its reference as the fallback on every device.

    fake: makes empty outputs from the shapes of the inputs, for tracing. cpu: an implementation by torch's own
    CPU kernels, for an operator without a C++ kernel. triton: the folder in `ops` whose `triton_ops` has a
    function of the operator's name; that function runs on a GPU where the CUDA library has no kernel.

    Where the compiled library is loaded, it has already defined the schema. Defining it here serves an install
    without a compiler, and a test compares the two texts.
    """
    load()
    name = schema.split("(", 1)[0]
    if not hasattr(OPERATORS, name):
        _FRAGMENT.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(
        f"{NAMESPACE}::{name}", "default", _outside_autocast(reference), lib=_FRAGMENT
    )
    torch.library.register_fake(f"{NAMESPACE}::{name}", _on_one_device(fake), lib=_FRAGMENT)
    if cpu is not None and os.environ.get(REFERENCE) != "1":
        torch.library.impl(f"{NAMESPACE}::{name}", "cpu", _outside_autocast(cpu), lib=_FRAGMENT)
    if triton is not None and "triton" not in reasons and not _has_cuda_kernel(name):
        torch.library.impl(f"{NAMESPACE}::{name}", "cuda", _triton(triton, name), lib=_FRAGMENT)
        loaded["triton"] = ", ".join(filter(None, [loaded.get("triton"), name]))


def _outside_autocast(function: Callable[..., object]) -> Callable[..., object]:
    """Return an implementation whose own matrix products keep their dtype under autocast.

    The dtypes of an operator's inputs decide its arithmetic. Autocast would round float32 products inside it.
    """

    @functools.wraps(function)
    def call(*arguments: object) -> object:
        kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
        if not kinds:
            return function(*arguments)
        with contextlib.ExitStack() as stack:
            for kind in kinds:
                stack.enter_context(torch.autocast(kind, enabled=False))
            return function(*arguments)

    return call


def _on_one_device(fake: Callable[..., object]) -> Callable[..., object]:
    """Return the fake with a check that all tensors are on one device.

    torch runs the fake for a call with one tensor on the meta device. Without the check, the fake would return
    uninitialised memory on the device of another tensor.
    """

    @functools.wraps(fake)
    def checked(*arguments: object) -> object:
        flat = (item for part in arguments for item in (part if isinstance(part, list) else [part]))
        devices = {item.device for item in flat if isinstance(item, torch.Tensor)}
        if len(devices) > 1:
            raise ValueError(f"all tensors must be on one device, got {sorted(map(str, devices))}")
        return fake(*arguments)

    return checked


def _has_cuda_kernel(name: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", "CUDA")


def differentiate(
    name: str, backward: Callable[..., Any], setup_context: Callable[..., None]
) -> None:
    """Register the derivative of an operator; see torch.library.register_autograd."""
    torch.library.register_autograd(
        f"{NAMESPACE}::{name}", backward, setup_context=setup_context, lib=_FRAGMENT
    )


def kernel_status() -> dict[str, str]:
    """Return, for each backend ("cpu", "cuda", "triton"), its library or operators, or "off: " and the reason."""
    load()
    kinds = ("cpu", "cuda", "triton")
    return {kind: loaded.get(kind) or f"off: {reasons.get(kind, 'unused')}" for kind in kinds}
