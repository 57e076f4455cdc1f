"""The inert objects that take the place of classes, instances and storages of a pickle."""

from __future__ import annotations

import dataclasses
from typing import Any

_LONGEST = 300


def printable(text: str) -> str:
    """Return a text of a file for an error message, cut to 300 characters and without codes for a terminal."""
    # lone surrogates have no bytes either, so that printing them would raise another error
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:_LONGEST])
    return shown if len(text) <= _LONGEST else f"{shown}…"


@dataclasses.dataclass(frozen=True)
class Name:
    """The dotted name of a function or class that a pickle refers to. Nothing is imported for it."""

    module: str
    attribute: str

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.attribute}")


@dataclasses.dataclass
class Record:
    """An instance of a class, read as the name of the class and its state.

    class_name: the name without its module. state: the attributes by name. persistent: True for an object whose
    file also holds the source text of its class; the text is dropped.
    """

    class_name: str
    state: dict[str, Any]
    persistent: bool = False

    # a record may hold itself, and the generated form would then not end
    def __repr__(self) -> str:
        return f"Record({printable(self.class_name)})"
