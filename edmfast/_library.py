"""Load the compiled libraries, or remember why one could not be loaded.

The libraries register operators with torch when they are loaded, in the namespace NAMESPACE. The library of the
CPU is a Python module as well, which `module` imports. `torch-ext/library.py` takes the place of this file in a
build for the Hugging Face hub.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from edmfast._internal.triton import why_no_triton

NAMESPACE = "edmfast"
REFERENCE = "EDMFAST_REFERENCE"
"""The environment variable that asks for the plain reference when it is 1."""
reasons: dict[str, str] = {}
"""Why a backend (cpu, cuda, triton) is not live."""
loaded: dict[str, str] = {}
"""The library of a backend that is live, or its operators."""
_FOLDER = Path(__file__).parent
# torch leaves load_library without annotations
_OPERATORS: Any = torch.ops


def _load(kind: str, pattern: str) -> None:
    """Load the library of a backend, and remember it, or the reason why it did not load."""
    libraries = sorted(_FOLDER.glob(pattern))
    if not libraries:
        marker = _FOLDER / "_build_info.txt"
        built = marker.read_text().strip() if marker.exists() else _why_not_built()
        reasons[kind] = f"no compiled library ({built})"
        return
    try:
        _OPERATORS.load_library(str(libraries[0]))
        loaded[kind] = libraries[0].name
    except (OSError, RuntimeError) as error:
        reasons[kind] = f"{libraries[0].name} did not load: {error}"


@functools.cache
def load() -> None:
    """Load the libraries that there are, once. Warn once when the CPU kernels are missing."""
    if os.environ.get(REFERENCE) == "1":
        reason = f"{REFERENCE}=1 asks for the plain reference"
        reasons.update(cpu=reason, cuda=reason, triton=reason)
        return
    _load("cpu", "_C.*so")
    if "cpu" not in loaded:
        warnings.warn(
            f"edmfast runs on its plain-torch reference: {reasons['cpu']}. "
            "Results are the same, slower; `edmfast info` tells more.",
            RuntimeWarning,
            stacklevel=2,
        )
    device = torch.version.cuda is not None and torch.cuda.is_available()
    if not device:
        present = any(_FOLDER.glob("_cuda*.so"))
        built = "built" if present else "not built"
        reasons["cuda"] = f"this torch sees no CUDA device (CUDA kernels {built})"
        reasons["triton"] = "this torch sees no CUDA device"
        return
    if "cpu" in loaded:
        _load("cuda", "_cuda*.so")
    else:
        reasons["cuda"] = "the CPU library, which it builds on, is not live"
    if why := why_no_triton():
        reasons["triton"] = why


def module() -> Any | None:
    """Return the CPU library as a Python module, or None where it is not live or no module."""
    load()
    if "cpu" not in loaded:
        return None
    try:
        return importlib.import_module("._C", __package__)
    except ImportError:
        return None


def _why_not_built() -> str:
    root = _FOLDER.parent
    if not (root / "setup.py").exists() or not (root / "csrc").is_dir():
        return "package was not built"
    return (
        f"{root} is a source tree that was not built, and Python found it before any installed edmfast; "
        "start Python in another folder, or build in place: pip install --no-build-isolation -e ."
    )
