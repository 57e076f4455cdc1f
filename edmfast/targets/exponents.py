"""The exponents of targets: read from a model, converted once, and added up.

The exponent A of a model links its score S to its denoised states D = x + sigma² S/A. It is 1 unless the model has
the attribute `exponent`. An exponent is a number, or a tensor float64 [K] with one number for each of K equal runs
of consecutive rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float
from edmfast.models.calling.foreign import name_of
from edmfast.targets.protocols import Model

Exponent = float | Tensor

_LARGEST = torch.finfo(torch.float32).max


def exponent_of(model: Model) -> Exponent:
    """Return the exponent A of a model as a float or float64 [K]. Raises ValueError for more dimensions."""
    exponent = getattr(model, "exponent", 1.0)
    # A number on the host lets is_zero skip models without reading a device.
    if not isinstance(exponent, Tensor) or exponent.dim() == 0:
        return float(exponent)
    if exponent.dim() > 1:
        raise ValueError(
            f"the exponent of {name_of(model)} must be a number or a tensor [K], given {[*exponent.shape]}"
        )
    return exponent.double()


def as_exponent(value: Any, name: str = "exponents") -> Exponent:
    """Return value as a float or float64 [K]. name: the name of the argument in error messages.

    Raises TypeError for anything but a number or a tensor, ValueError for a tensor that is empty or has more
    dimensions, and for numbers that are not finite or do not fit float32.
    """
    if isinstance(value, Tensor) and value.dim() > 0:
        if value.dim() > 1 or len(value) == 0:
            raise ValueError(f"{name} must be numbers or tensors [K], given {[*value.shape]}")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} must be finite, given {value.tolist()}")
        if bool((value.abs() > _LARGEST).any()):
            raise ValueError(
                f"{name} must fit float32, which energies may be in, given {value.tolist()}"
            )
        # Exponents are constants of a target, so gradients do not flow into them.
        return value.detach().double()
    try:
        number = as_float(name, value)
    except TypeError as error:
        raise TypeError(f"{name} must be numbers or tensors [K], given {value!r}") from error
    # A sum of energies in float32 would become infinite, or NaN where two such terms cancel.
    if abs(number) > _LARGEST:
        raise ValueError(f"{name} must fit float32, which energies may be in, given {number:g}")
    return number


def total_exponent(exponents: Sequence[Exponent], model_exponents: Sequence[Exponent]) -> Exponent:
    """Return A = sum_i a_i A_i, the exponent of a sum of energies a_i E_i whose models have exponents A_i.

    Raises ValueError unless A is positive and all tensors among the numbers have one length.
    """
    tensors = [a for a in (*exponents, *model_exponents) if isinstance(a, Tensor)]
    if len({len(a) for a in tensors}) > 1:
        raise ValueError(f"exponents have different lengths K: {[len(a) for a in tensors]}")
    # The models of a sum may be on several devices until the sum is moved to one.
    device = tensors[0].device if tensors else None
    total: Exponent = 0.0
    for a, model_exponent in zip(exponents, model_exponents, strict=True):
        total = total + _to_device(a, device) * _to_device(model_exponent, device)
    # D = x + sigma² S/A divides by A, and without a positive A the density is not a Gaussian at
    # large sigma.
    if bool(torch.as_tensor(total, dtype=torch.float64).le(0).any()):
        raise ValueError(
            f"the total exponent A = sum of exponents must be positive, exponents "
            f"{[_readable(a) for a in exponents]} give A = {_readable(total)}"
        )
    return total


def is_zero(exponent: Exponent) -> bool:
    """Return whether an exponent is the number 0. A tensor is not read, so the answer for it is False."""
    return not isinstance(exponent, Tensor) and exponent == 0


def _to_device(value: Exponent, device: torch.device | None) -> Exponent:
    return value.to(device) if isinstance(value, Tensor) else value


def _readable(value: Exponent) -> Any:
    return value.tolist() if isinstance(value, Tensor) else float(f"{value:g}")
