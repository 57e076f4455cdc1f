"""JSON from files that may be corrupt: whatever is wrong with it is a ValueError that names the file."""

from __future__ import annotations

import json
from typing import Any

_DEEPEST = 64


def parse_json(path: Any, text: str) -> dict[str, Any]:
    """Return the object that a JSON text holds.

    Raises ValueError for text that is no JSON, for any other value than an object, for integers that do not fit 64
    bits, and for nesting deeper than 64 levels, which would overflow the stack of whoever walks through it.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has corrupt metadata: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} has corrupt metadata: a {type(found).__name__}")
    _check(path, found)
    return found


def shortened(value: Any, most: int = 200) -> str:
    """Return a value from a file as an error quotes it: its repr, cut where it is long."""
    told = repr(value)
    return told if len(told) <= most else f"{told[:most]}…"


def _check(path: Any, found: dict[str, Any]) -> None:
    level: list[Any] = [found]
    for _ in range(_DEEPEST):
        inside: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inside += value.values()
            elif isinstance(value, list):
                inside += value
            elif isinstance(value, int) and not -(2**63) <= value < 2**64:
                raise ValueError(
                    f"{path} has corrupt metadata: an integer that does not fit 64 bits"
                )
        level = inside
        if not level:
            return
    raise ValueError(f"{path} has corrupt metadata: nested deeper than {_DEEPEST} levels")
