"""The origin of a model: whether it belongs to this package, and the name that errors give it."""

from __future__ import annotations

from typing import Any


def is_ours(model: Any) -> bool:
    """Return whether a model is an object of this package or its method. Such a model follows the protocol."""
    owner = getattr(model, "__self__", model)
    return type(owner).__module__.partition(".")[0] == "edmfast"


def name_of(model: Any) -> str:
    """Return the name of a model for errors: the name of a function, or else of the class."""
    name = getattr(model, "__qualname__", None)
    return name if isinstance(name, str) else type(model).__name__
