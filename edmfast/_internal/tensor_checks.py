"""Checks of the tensors that a file holds, before anything is done with them: dtypes, shapes and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64)


@dataclass(frozen=True)
class TensorSpec:
    """A description of what one tensor of a file must be.

    sizes: a letter for each dimension, the same letter for the same size everywhere, such as "TPN"; a last "*"
    stands for any further dimensions, a digit for itself. least, most: bounds of integers; where most is a letter,
    they are below its size.
    optional: [0] of any dtype will do as well.
    """

    dtypes: tuple[torch.dtype, ...]
    sizes: str
    least: int | None = None
    most: int | str | None = None
    optional: bool = False


def check_tensors(
    path: Any, tensors: Mapping[str, Tensor], table: Mapping[str, TensorSpec], sizes: dict[str, int]
) -> None:
    """Raise ValueError naming the first tensor that is not as the table says; names not in it are left alone.

    sizes: of letters that are known; those met first in a tensor are added to it.
    """
    for name, held in table.items():
        if name in tensors:
            _check(path, name, tensors[name], held, sizes)


def _size(letter: str, found: int, sizes: dict[str, int]) -> int:
    return int(letter) if letter.isdigit() else sizes.setdefault(letter, found)


def _check(path: Any, name: str, tensor: Tensor, held: TensorSpec, sizes: dict[str, int]) -> None:
    if held.optional and tensor.shape == (0,):
        return
    if tensor.dtype not in held.dtypes:
        known = " or ".join(map(str, held.dtypes))
        raise ValueError(f"{path} is corrupt: {name} is {tensor.dtype}, not {known}")
    letters = held.sizes.removesuffix("*")
    fits = tensor.dim() >= len(letters) if held.sizes != letters else tensor.dim() == len(letters)
    pairs = [*zip(letters, tensor.shape, strict=False)]
    if not fits or any(_size(letter, size, sizes) != size for letter, size in pairs):
        wanted = [sizes.get(letter, letter) for letter in held.sizes]
        raise ValueError(f"{path} is corrupt: {name} is {[*tensor.shape]}, not {wanted}")
    if tensor.numel() == 0 or held.least is None:
        return
    most = sizes[held.most] - 1 if isinstance(held.most, str) else held.most
    low, high = int(tensor.min()), int(tensor.max())
    if low < held.least or (most is not None and high > most):
        above = "" if most is None else f" to {most}"
        raise ValueError(
            f"{path} is corrupt: {name} must hold numbers from {held.least}{above}, found {low} to {high}"
        )
