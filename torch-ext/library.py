"""Name the library that kernel-builder compiled, and say for which backend it has kernels.

This module takes the place of `edmfast/_library.py` in a build for the Hugging Face hub. One library holds the
kernels of one backend there, in a namespace of its own, so that two versions can be loaded into one process.
"""

from __future__ import annotations

import functools

import torch

from ._internal.triton import why_no_triton
from ._ops import add_op_namespace_prefix

NAMESPACE = add_op_namespace_prefix("").removesuffix("::")
REFERENCE = "EDMFAST_REFERENCE"
reasons: dict[str, str] = {}
loaded: dict[str, str] = {}


@functools.cache
def load() -> None:
    """Find out which backends are live. The import of `_ops` above has loaded the library."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    for kind in ("cpu", "cuda"):
        if _is_defined("noise") and has_kernel(f"{NAMESPACE}::noise", kind.upper()):
            loaded[kind] = NAMESPACE
        else:
            reasons[kind] = "this build has no kernels for it"
    if torch.version.cuda is None or not torch.cuda.is_available():
        reasons["triton"] = "this torch sees no CUDA device"
    elif reason := why_no_triton():
        reasons["triton"] = reason


def module() -> None:
    """Return None: the Python module of a hub build is made by kernel-builder, and has no functions."""


def _is_defined(name: str) -> bool:
    return hasattr(getattr(torch.ops, NAMESPACE), name)
