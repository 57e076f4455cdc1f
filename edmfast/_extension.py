"""Define operators, and answer which backends are live.

Where no compiled library is loaded, the same operators are defined from Python and run the plain-torch reference,
or torch's own CPU kernels where an operator names some. On a CUDA device, Triton kernels run the operators for
which the CUDA library has no kernel.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import torch

from edmfast._library import NAMESPACE, REFERENCE, load, loaded, reasons

OPERATORS: Any = getattr(torch.ops, NAMESPACE)
_FRAGMENT = torch.library.Library(NAMESPACE, "FRAGMENT")


def _triton(module: str, name: str) -> Callable[..., object]:
    """Return the function `name` of `ops.<module>.triton_ops`. Its first call imports that module and Triton."""

    def call(*arguments: object) -> object:
        found = importlib.import_module(f".ops.{module}.triton_ops", __package__)
        return getattr(found, name)(*arguments)

    return call


def define(
    schema: str,
    reference: Callable[..., object],
    fake: Callable[..., object],
    cpu: Callable[..., object] | None = None,
    triton: str | None = None,
) -> None:
    """Register the reference as the fallback of an operator, its fake, a function of torch's own kernels for
    the CPU where that is faster, and on a GPU where the CUDA library has no kernel the Triton one, a function
    of the operator's name in `triton_ops` of the operator folder `triton`.

    The compiled library has already defined the schema where it is loaded; defining it here serves
    an install without a compiler. A test holds the two texts together.
    """
    load()
    name = schema.split("(", 1)[0]
    if not hasattr(OPERATORS, name):
        _FRAGMENT.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(f"{NAMESPACE}::{name}", "default", reference, lib=_FRAGMENT)
    torch.library.register_fake(f"{NAMESPACE}::{name}", _on_one_device(fake), lib=_FRAGMENT)
    if cpu is not None and os.environ.get(REFERENCE) != "1":
        torch.library.impl(f"{NAMESPACE}::{name}", "cpu", cpu, lib=_FRAGMENT)
    if triton is not None and "triton" not in reasons and not _has_cuda_kernel(name):
        torch.library.impl(f"{NAMESPACE}::{name}", "cuda", _triton(triton, name), lib=_FRAGMENT)
        loaded["triton"] = ", ".join(filter(None, [loaded.get("triton"), name]))


def _on_one_device(fake: Callable[..., object]) -> Callable[..., object]:
    """Return the fake with a check of devices. A call with one tensor on the meta device runs the fake, which
    would hand out uninitialised memory of the device of another tensor."""

    @functools.wraps(fake)
    def checked(*arguments: object) -> object:
        flat = (one for part in arguments for one in (part if isinstance(part, list) else [part]))
        devices = {tensor.device for tensor in flat if isinstance(tensor, torch.Tensor)}
        if len(devices) > 1:
            raise ValueError(f"all tensors must be on one device, got {sorted(map(str, devices))}")
        return fake(*arguments)

    return checked


def _has_cuda_kernel(name: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", "CUDA")


def differentiate(
    name: str, backward: Callable[..., Any], setup_context: Callable[..., None]
) -> None:
    """Register the derivative of an operator, see torch.library.register_autograd."""
    torch.library.register_autograd(
        f"{NAMESPACE}::{name}", backward, setup_context=setup_context, lib=_FRAGMENT
    )


def kernel_status() -> dict[str, str]:
    """For each backend (cpu, cuda, triton): the library or operators live, or why there are none."""
    load()
    kinds = ("cpu", "cuda", "triton")
    return {kind: loaded.get(kind) or f"off: {reasons.get(kind, 'unused')}" for kind in kinds}
