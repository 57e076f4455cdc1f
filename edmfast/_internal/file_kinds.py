"""Tell what kind of file lies at a path, from its first bytes and its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

KEY = "edmfast"
"""The name under which our files hold what they are."""

MODEL = "model"
PARTICLES = "file of particles"
RUN_CHECKPOINT = "checkpoint of smc.sample"
TRAINING_CHECKPOINT = "checkpoint of distill"
PICTURE = "picture"
EMPTY = "empty file"
OTHER = "file that edmfast did not write"

_BY_FORMAT = {"edmfast-model": MODEL, "edmfast-distill": TRAINING_CHECKPOINT}
_BY_KIND = {"particles": PARTICLES, "smc": RUN_CHECKPOINT}
_PICTURES = (b"\x89PNG", b"%PDF", b"\xff\xd8\xff", b"<svg", b"<?xml", b"%!PS", b"GIF8")
_LARGEST_TABLE = 1 << 24
"""Bytes up to which a file is read as JSON: our tables are far smaller."""


def kind_of(path: Path) -> str:
    """Return the kind of a regular file: one of the names above, or what a JSON file says of itself."""
    size = path.stat().st_size
    if size == 0:
        return EMPTY
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(_PICTURES):
        return PICTURE
    if start[:1] == b"{":
        return _kind_of_table(path) if size <= _LARGEST_TABLE else OTHER
    return _kind_of_tensors(path)


def _kind_of_table(path: Path) -> str:
    try:
        found = json.loads(path.read_bytes())[KEY]
    except (ValueError, LookupError, TypeError, RecursionError):
        return OTHER
    return found if isinstance(found, str) else OTHER


def _kind_of_tensors(path: Path) -> str:
    try:
        with safe_open(path, framework="pt") as file:
            header: Any = json.loads((file.metadata() or {})[KEY])
        return _BY_FORMAT.get(header.get("format"), _BY_KIND.get(header.get("kind"), OTHER))
    except (SafetensorError, OSError, ValueError, LookupError, AttributeError, RecursionError):
        return OTHER
    except TypeError:  # a header whose values cannot be looked up
        return OTHER
