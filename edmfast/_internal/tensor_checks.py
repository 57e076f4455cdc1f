"""Checks of the tensors in a file before they are used: dtypes, shapes and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64)


@dataclass(frozen=True)
class TensorSpec:
    """A specification of one tensor of a file.

    dtypes: the accepted dtypes. sizes: one character per dimension, such as "TPN". The same letter stands for the
    same size in all tensors, a digit for itself, and a last "*" for any further dimensions. least, most: the
    accepted range of integers; where most is a letter, they must be below its size. optional: a tensor [0] of any
    dtype is accepted too.
    """

    dtypes: tuple[torch.dtype, ...]
    sizes: str
    least: int | None = None
    most: int | str | None = None
    optional: bool = False


def check_tensors(
    path: Any, tensors: Mapping[str, Tensor], specs: Mapping[str, TensorSpec], sizes: dict[str, int]
) -> None:
    """Raise ValueError for the first tensor that does not fit its specification, with its name in the error.

    Tensors without a specification are not checked. sizes: the known sizes of letters, to which the sizes of
    letters that a tensor uses first are added.
    """
    for name, spec in specs.items():
        if name in tensors:
            _check(path, name, tensors[name], spec, sizes)


def _size(letter: str, size: int, sizes: dict[str, int]) -> int:
    return int(letter) if letter.isdigit() else sizes.setdefault(letter, size)


def _check(path: Any, name: str, tensor: Tensor, spec: TensorSpec, sizes: dict[str, int]) -> None:
    if spec.optional and tensor.shape == (0,):
        return
    if tensor.dtype not in spec.dtypes:
        accepted = " or ".join(map(str, spec.dtypes))
        raise ValueError(f"{path} is corrupt: {name} is {tensor.dtype}, not {accepted}")
    letters = spec.sizes.removesuffix("*")
    fits = tensor.dim() >= len(letters) if spec.sizes != letters else tensor.dim() == len(letters)
    pairs = [*zip(letters, tensor.shape, strict=False)]
    if not fits or any(_size(letter, size, sizes) != size for letter, size in pairs):
        expected = [sizes.get(letter, letter) for letter in spec.sizes]
        raise ValueError(f"{path} is corrupt: {name} is {[*tensor.shape]}, not {expected}")
    # An empty tensor has no minimum.
    if tensor.numel() == 0 or spec.least is None:
        return
    most = sizes[spec.most] - 1 if isinstance(spec.most, str) else spec.most
    low, high = int(tensor.min()), int(tensor.max())
    if low < spec.least or (most is not None and high > most):
        upper = "" if most is None else f" to {most}"
        raise ValueError(
            f"{path} is corrupt: {name} must hold numbers from {spec.least}{upper}, but has {low} to {high}"
        )
