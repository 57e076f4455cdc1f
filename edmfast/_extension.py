"""Loads the compiled operators, remembers why it could not, and answers what is live.

The libraries carry no Python module: they register operators with torch when loaded. Where one is
absent, the same operators are defined from Python and run the plain-torch reference.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

_FOLDER = Path(__file__).parent
_REASONS: dict[str, str] = {}
_LOADED: dict[str, str] = {}
_FRAGMENT = torch.library.Library("edmfast", "FRAGMENT")


def _load(kind: str, pattern: str) -> None:
    found = sorted(_FOLDER.glob(pattern))
    if not found:
        marker = _FOLDER / "_build_info.txt"
        built = marker.read_text().strip() if marker.exists() else "package was not built"
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
    if os.environ.get("EDMFAST_REFERENCE") == "1":
        _REASONS["cpu"] = _REASONS["cuda"] = "EDMFAST_REFERENCE=1 asks for the plain reference"
        return
    _load("cpu", "_C.*so")
    if "cpu" not in _LOADED:
        warnings.warn(
            f"edmfast runs on its plain-torch reference: {_REASONS['cpu']}. "
            "Results are the same, slower; `edmfast info` tells more.",
            RuntimeWarning,
            stacklevel=2,
        )
    if "cpu" in _LOADED and torch.version.cuda is not None and torch.cuda.is_available():
        _load("cuda", "_cuda*.so")
    else:
        present = any(_FOLDER.glob("_cuda*.so"))
        built = "built" if present else "not built"
        _REASONS["cuda"] = f"this torch sees no CUDA device (CUDA kernels {built})"


def define(schema: str, reference: Callable[..., object], fake: Callable[..., object]) -> None:
    """Register the reference as the fallback of an operator, and its fake.

    The compiled library has already defined the schema where it is loaded; defining it here serves
    an install without a compiler. A test holds the two texts together.
    """
    load()
    name = schema.split("(", 1)[0]
    if not hasattr(torch.ops.edmfast, name):
        _FRAGMENT.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(f"edmfast::{name}", "default", reference, lib=_FRAGMENT)
    torch.library.register_fake(f"edmfast::{name}", fake, lib=_FRAGMENT)


def kernel_status() -> dict[str, str]:
    """For each backend (cpu, cuda): the library that is live, or why there is none."""
    load()
    return {kind: _LOADED.get(kind) or f"off: {_REASONS[kind]}" for kind in ("cpu", "cuda")}
