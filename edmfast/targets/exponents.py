"""Exponents of targets: numbers, or float64 [K] with one for each of K equal runs of rows. Checked once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float
from edmfast.targets.scores import Exponent

_LARGEST = torch.finfo(torch.float32).max


def as_exponent(value: Any, name: str = "exponents") -> Exponent:
    """A float, or float64 [K]. TypeError for anything else, ValueError unless finite."""
    if isinstance(value, Tensor) and value.dim() > 0:
        if value.dim() > 1 or len(value) == 0:
            raise ValueError(f"{name} must be numbers or tensors [K], given {[*value.shape]}")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} must be finite, given {value.tolist()}")
        if bool((value.abs() > _LARGEST).any()):
            raise ValueError(
                f"{name} must fit float32, which energies may be in, given {value.tolist()}"
            )
        return value.detach().double()
    try:
        number = as_float(name, value)
    except TypeError as error:
        raise TypeError(f"{name} must be numbers or tensors [K], given {value!r}") from error
    if abs(number) > _LARGEST:
        raise ValueError(f"{name} must fit float32, which energies may be in, given {number:g}")
    return number


def check_total(exponents: Sequence[Exponent], parts: Sequence[Exponent]) -> Exponent:
    """A = sum_i a_i A_i. ValueError unless it is positive, and tensors among them have one length."""
    tensors = [a for a in (*exponents, *parts) if isinstance(a, Tensor)]
    if len({len(a) for a in tensors}) > 1:
        raise ValueError(f"exponents have different lengths K: {[len(a) for a in tensors]}")
    device = tensors[0].device if tensors else None
    total: Exponent = 0.0
    for a, part in zip(exponents, parts, strict=True):
        total = total + _on(device, a) * _on(device, part)
    if bool(torch.as_tensor(total, dtype=torch.float64).le(0).any()):
        raise ValueError(
            f"the total exponent A = sum of exponents must be positive, exponents "
            f"{[_told(a) for a in exponents]} give A = {_told(total)}"
        )
    return total


def is_zero(exponent: Exponent) -> bool:
    """Whether it is the number 0; a tensor is not read."""
    return not isinstance(exponent, Tensor) and exponent == 0


def _on(device: torch.device | None, value: Exponent) -> Exponent:
    return value.to(device) if isinstance(value, Tensor) else value


def _told(value: Exponent) -> Any:
    return value.tolist() if isinstance(value, Tensor) else float(f"{value:g}")
