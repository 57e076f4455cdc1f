"""The structure of the arguments of a compiled function, by which its graphs are told apart."""

from __future__ import annotations

import enum
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, enum.Enum)


def structure_of(value: Any) -> Hashable:
    """Return what two arguments must have in common to share a graph: their containers and their plain values.

    Raises TypeError for an object of another kind, whose tensors would go unnoticed.
    """
    if isinstance(value, Tensor):
        return "tensor"
    if type(value) is dict:
        return "dict", tuple((name, structure_of(part)) for name, part in value.items())
    if type(value) in (list, tuple):
        return type(value), tuple(structure_of(part) for part in value)
    if isinstance(value, _PLAIN):
        # the type counts because 1, 1.0 and True are equal but trace differently
        return type(value), value
    raise TypeError(
        "the arguments of a compiled step are tensors, plain values, and lists, tuples and dictionaries of these, "
        f"given {type(value).__name__}"
    )
