"""JSON from files that may be corrupt: every fault is a ValueError that names the file."""

from __future__ import annotations

import json
from typing import Any

_DEEPEST = 64


def parse_json(path: Any, text: str) -> dict[str, Any]:
    """Return the object that a JSON text holds.

    Raises ValueError for text that is not JSON, for a value that is not an object, for integers that do not fit 64
    bits, and for nesting deeper than 64 levels, which would overflow the stack of a recursive reader.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has corrupt metadata: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} has corrupt metadata: a {type(content).__name__} and not an object"
        )
    _check(path, content)
    return content


def shortened(value: Any, most: int = 200) -> str:
    """Return the repr of a value from a file for an error message, cut to `most` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def _check(path: Any, content: dict[str, Any]) -> None:
    # A loop over levels needs no stack, whatever the depth of the file.
    level: list[Any] = [content]
    for _ in range(_DEEPEST):
        inside: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inside += value.values()
            elif isinstance(value, list):
                inside += value
            # Python's integers have no bound, but tensors and seeds hold 64 bits.
            elif isinstance(value, int) and not -(2**63) <= value < 2**64:
                raise ValueError(
                    f"{path} has corrupt metadata: an integer that does not fit 64 bits"
                )
        level = inside
        if not level:
            return
    raise ValueError(f"{path} has corrupt metadata: nested deeper than {_DEEPEST} levels")
