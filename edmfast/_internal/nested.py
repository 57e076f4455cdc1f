"""Tensors inside lists, tuples and dictionaries, such as the conditions of foreign models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a value: the value itself, or the tensors in its lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part)


def with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with `change` applied to its tensors, also those in plain lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return change(value)
    # Subclasses such as named tuples have constructors of their own and could not be rebuilt here.
    if type(value) is dict:
        return {name: with_tensors(part, change) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(with_tensors(part, change) for part in value)
    return value
