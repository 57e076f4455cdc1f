"""The conditions of a compiled run: their tensors are inputs of its graph, and all else identifies the graph."""

from __future__ import annotations

import enum
from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edmfast._internal.nested import with_tensors

# The values of these types cannot change, so that equal ones stand for equal numbers of a graph.
_CONSTANTS: tuple[type, ...] = (
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    enum.Enum,
    np.generic,
    torch.Size,
)
_CONSTANTS += (torch.dtype, torch.device)


def without_tensors(condition: dict[str, Any]) -> dict[str, Any]:
    """Return the conditions with empty tensors in the places of theirs, which a graph may keep."""
    return {
        name: with_tensors(value, lambda _: torch.empty(0)) for name, value in condition.items()
    }


def with_inputs(condition: dict[str, Any], inputs: list[Tensor]) -> dict[str, Any]:
    """Return the conditions with other tensors in the places of theirs, in the order of `tensors_in`."""
    rest = iter(inputs)
    return {name: with_tensors(value, lambda _: next(rest)) for name, value in condition.items()}


def key_of(value: Any) -> Hashable:
    """Return a key for everything of a condition but the numbers of its tensors, also inside plain containers.

    Raises TypeError for an object whose later changes a key could not show.
    """
    if isinstance(value, Tensor):
        return Tensor
    if type(value) is dict:
        return dict, tuple((name, key_of(part)) for name, part in value.items())
    if type(value) in (list, tuple):
        return type(value), tuple(key_of(part) for part in value)
    if isinstance(value, _CONSTANTS):
        return type(value), value
    raise TypeError(
        f"the conditions hold a {type(value).__name__}, whose changes a graph would not see: pass tensors, "
        "numbers, strings, or lists, tuples and dictionaries of them"
    )
