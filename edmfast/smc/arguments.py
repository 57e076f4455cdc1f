"""Check the arguments of runs and convert them."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.numbers import as_int
from edmfast.ops.resample.operator import SCHEMES
from edmfast.smc.populations.select import SELECT
from edmfast.targets.proposed_by import weighed_parts

ON_DEGENERATE = ("warn", "raise", "ignore")


def check_on_degenerate(on_degenerate: str) -> None:
    """Raise ValueError for an unknown value of the argument `on_degenerate`."""
    if on_degenerate not in ON_DEGENERATE:
        raise ValueError(
            f"on_degenerate must be one of {', '.join(ON_DEGENERATE)}, got {on_degenerate!r}"
        )


def check_levels(target: Any, levels: list[float]) -> None:
    """Let every part of a target that ends at a certain noise level check these levels, in units of x."""
    for part in weighed_parts(target):
        check = getattr(part, "check_levels", None)
        if check is not None:
            check(levels)


def check_resampling(resampling: str) -> None:
    """Raise ValueError for an unknown way of resampling."""
    schemes = (*SCHEMES, SELECT)
    if resampling not in schemes:
        raise ValueError(f"unknown resampling {resampling!r}; known: {', '.join(schemes)}")


def as_counts(particles: int, populations: int) -> tuple[int, int]:
    """Return N and P as ints. Raises TypeError or ValueError for numbers that no run can have."""
    return (
        # Ancestors are stored as int32, and the counter of the noise has 28 bits for populations.
        as_int("particles", particles, least=1, most=2**31 - 1),
        as_int("populations", populations, least=1, most=2**28 - 1),
    )


def as_batch_size(batch_size: int | None, name: str = "batch_size") -> int | None:
    """Return the largest number of rows per call as an int, or None.

    name: the name of the argument in error messages.
    """
    return None if batch_size is None else as_int(name, batch_size, least=1)


def check_path(name: str, path: Any, others: str = "") -> None:
    """Raise TypeError for anything but a path or None.

    name: the name of the argument in error messages. others: what else it accepts, such as " or smc.Checkpoint".
    """
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path{others} or None, got {path!r}")


def check_callback(callback: Any) -> None:
    """Raise TypeError for a callback that cannot be called."""
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of a dict or None, got {callback!r}")


def check_instance(name: str, value: Any) -> None:
    """Raise TypeError for a class in place of one of its instances. name: the argument in error messages."""
    if isinstance(value, type):
        raise TypeError(f"{name}: pass an instance of {value.__name__}, not the class")


def check_device(name: str, device: Any) -> None:
    """Raise TypeError or ValueError for anything but a device, its name or None."""
    try:
        torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{name} must be a torch.device or its name, such as 'cpu' or 'cuda:0', got {device!r}"
        ) from error


def check_dtype(name: str, dtype: Any) -> None:
    """Raise TypeError for a dtype that states cannot have."""
    if dtype not in (torch.float32, torch.float64):
        shown = dtype if isinstance(dtype, torch.dtype) else f"the {type(dtype).__name__} {dtype!r}"
        raise TypeError(f"{name} must be torch.float32 or torch.float64, got {shown}")


def place(
    target: Any, device: torch.device | str | None, dtype: torch.dtype | None
) -> tuple[torch.device, torch.dtype]:
    """Return the device and dtype of the states: those given, or else those of the target's tensors."""
    # a model that only proposals follow does not decide in which dtype the target is weighed
    modules = [part for part in weighed_parts(target) if isinstance(part, nn.Module)]
    parameters = (p for m in modules for p in m.parameters(recurse=False))
    # the numbers of a combination, such as its exponents, say nothing about the models in it
    models = (m for m in modules if not getattr(m, "numbers_only", False))
    buffers = (b for m in models for b in m.buffers(recurse=False))
    tensors: list[Tensor] = [t for t in (*parameters, *buffers) if t.is_floating_point()]
    # An empty tensor has the default dtype and device of torch, for targets without tensors.
    first = tensors[0] if tensors else torch.empty(0)
    dtype = dtype or first.dtype
    check_dtype("dtype", dtype)
    return torch.device(device) if device is not None else first.device, dtype
