"""A digest of a target, by which a checkpoint knows the target of its run."""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def fingerprint(target: Any) -> str:
    """Return a digest of a target: of every class, number, array and function name in it.

    It does not depend on what a function does, nor on attributes of foreign modules other than their tensors.
    """
    digest = hashlib.sha256()
    _add(digest, "target", target)
    return digest.hexdigest()[:16]


def _add(digest: hashlib._Hash, name: str, value: Any, within: tuple[int, ...] = ()) -> None:
    if id(value) in within:  # objects that hold each other
        return
    within = (*within, id(value))
    if isinstance(value, Tensor):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        # NumPy has no bfloat16, but the bytes of every dtype can be viewed.
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, (list, tuple)):
        for index, entry in enumerate(value):
            _add(digest, f"{name}.{index}", entry, within)
    elif isinstance(value, dict):
        # Keys of several types cannot be compared with each other.
        for key in sorted(value, key=str):
            _add(digest, f"{name}.{key}", value[key], within)
    elif value is None or isinstance(value, (bool, int, float, str, np.generic)):
        digest.update(f"{name} {value!r}".encode())
    elif isinstance(value, nn.Module) and not _is_ours(value):
        # structure and tensors count alone: the attributes of a foreign module may change during a run
        digest.update(f"{name} {type(value).__name__}".encode())
        for key, module in value.named_modules():
            digest.update(f"{key} {type(module).__name__}".encode())
        _add(digest, name, dict(value.state_dict()), within)
    elif isinstance(value, np.ndarray):
        digest.update(f"{name} {value.shape} {value.dtype}".encode() + value.tobytes())
    elif isinstance(value, functools.partial):
        _add(digest, name, [value.func, value.args, value.keywords], within)
    elif inspect.ismethod(value):
        _add(digest, f"{name} {value.__func__.__qualname__}", value.__self__, within)
    elif callable(value) and hasattr(value, "__qualname__"):
        digest.update(f"{name} {value.__qualname__}".encode())
        if inspect.isfunction(value):
            _add(digest, name, _constants_of(value), within)
    else:
        digest.update(f"{name} {type(value).__name__}".encode())
        if hasattr(value, "signature"):
            digest.update(f"{name} {value.signature()}".encode())
        attributes = getattr(value, "__dict__", {})
        public = {key: entry for key, entry in attributes.items() if _counts(key)}
        _add(digest, name, public, within)
        if isinstance(value, nn.Module):
            _add(digest, name, [value._parameters, value._buffers, value._modules], within)


def _constants_of(function: types.FunctionType) -> list[Any]:
    """Return what a function holds that does not change by itself.

    That is the constants of its source, its defaults, and the floats, strings and tensors of its closure. Other
    variables of a closure, such as counters, may change during a run.
    """
    closure = []
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        closure.append(content if isinstance(content, (float, str, Tensor)) else None)
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    kept = [value for value in defaults if isinstance(value, (int, float, str, Tensor))]
    return [*_constants(function.__code__), *kept, *closure]


def _constants(code: types.CodeType) -> list[Any]:
    constants: list[Any] = []
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            constants += _constants(value)
        elif isinstance(value, (int, float, str)):
            constants.append(value)
    return constants


def _is_ours(module: nn.Module) -> bool:
    """Return whether a module is a target or denoiser, whose public attributes count.

    A foreign network may change its attributes during a run, for example to count its calls.
    """
    known = hasattr(module, "exponent") or hasattr(module, "sigma_data")
    return known or type(module).__module__.startswith("edmfast.")


def _counts(attribute: str) -> bool:
    # Private attributes may be caches, and eval() changes `training`: neither makes another target.
    return not attribute.startswith("_") and attribute != "training"
