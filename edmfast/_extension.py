"""Loads the compiled operators, remembers why it could not, and answers what is live.

The libraries carry no Python module: they register operators with torch when loaded. Where one is
absent, the same operators are defined from Python and run the plain-torch reference, or torch's own CPU
kernels where an operator names some; on a CUDA device, operators that its library has not, or all without it,
run Triton kernels where there are some.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).parent
_PLAIN = "EDMFAST_REFERENCE"
_REASONS: dict[str, str] = {}
_LOADED: dict[str, str] = {}
_FRAGMENT = torch.library.Library("edmfast", "FRAGMENT")


def _load(kind: str, pattern: str) -> None:
    found = sorted(_FOLDER.glob(pattern))
    if not found:
        marker = _FOLDER / "_build_info.txt"
        built = marker.read_text().strip() if marker.exists() else _why_not_built()
        _REASONS[kind] = f"no compiled library ({built})"
        return
    try:
        torch.ops.load_library(str(found[0]))
        _LOADED[kind] = found[0].name
    except (OSError, RuntimeError) as error:
        _REASONS[kind] = f"{found[0].name} did not load: {error}"


@functools.cache
def load() -> None:
    """Load what is there, once. Warns once when the CPU kernels are missing."""
    if os.environ.get(_PLAIN) == "1":
        asked = f"{_PLAIN}=1 asks for the plain reference"
        _REASONS.update(cpu=asked, cuda=asked, triton=asked)
        return
    _load("cpu", "_C.*so")
    if "cpu" not in _LOADED:
        warnings.warn(
            f"edmfast runs on its plain-torch reference: {_REASONS['cpu']}. "
            "Results are the same, slower; `edmfast info` tells more.",
            RuntimeWarning,
            stacklevel=2,
        )
    device = torch.version.cuda is not None and torch.cuda.is_available()
    if not device:
        present = any(_FOLDER.glob("_cuda*.so"))
        built = "built" if present else "not built"
        _REASONS["cuda"] = f"this torch sees no CUDA device (CUDA kernels {built})"
        _REASONS["triton"] = "this torch sees no CUDA device"
        return
    if "cpu" in _LOADED:
        _load("cuda", "_cuda*.so")
    else:
        _REASONS["cuda"] = "the CPU library, which it builds on, is not live"
    if reason := _why_no_triton():
        _REASONS["triton"] = reason


def _why_not_built() -> str:
    root = _FOLDER.parent
    if not (root / "setup.py").exists() or not (root / "csrc").is_dir():
        return "package was not built"
    return (
        f"{root} is a source tree that was not built, and Python found it before any installed edmfast; "
        "start Python in another folder, or build in place: pip install --no-build-isolation -e ."
    )


def _why_no_triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    # Triton builds its launchers when it first runs
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "triton finds no C compiler (gcc, clang, or the one CC names)"
    return ""


def _triton(module: str, name: str) -> Callable[..., object]:
    """The function `name` of `edmfast.ops.<module>.triton_ops`, imported (and Triton with it) by its first
    call."""

    def call(*arguments: object) -> object:
        found = importlib.import_module(f"edmfast.ops.{module}.triton_ops")
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
    if not hasattr(torch.ops.edmfast, name):
        _FRAGMENT.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(f"edmfast::{name}", "default", reference, lib=_FRAGMENT)
    torch.library.register_fake(f"edmfast::{name}", _on_one_device(fake), lib=_FRAGMENT)
    if cpu is not None and os.environ.get(_PLAIN) != "1":
        torch.library.impl(f"edmfast::{name}", "cpu", cpu, lib=_FRAGMENT)
    if triton is not None and "triton" not in _REASONS and not _has_cuda_kernel(name):
        torch.library.impl(f"edmfast::{name}", "cuda", _triton(triton, name), lib=_FRAGMENT)
        _LOADED["triton"] = ", ".join(filter(None, [_LOADED.get("triton"), name]))


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
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"edmfast::{name}", "CUDA")


def differentiate(
    name: str, backward: Callable[..., Any], setup_context: Callable[..., None]
) -> None:
    """Register the derivative of an operator, see torch.library.register_autograd."""
    torch.library.register_autograd(
        f"edmfast::{name}", backward, setup_context=setup_context, lib=_FRAGMENT
    )


def kernel_status() -> dict[str, str]:
    """For each backend (cpu, cuda, triton): the library or operators live, or why there are none."""
    load()
    kinds = ("cpu", "cuda", "triton")
    return {kind: _LOADED.get(kind) or f"off: {_REASONS.get(kind, 'unused')}" for kind in kinds}
