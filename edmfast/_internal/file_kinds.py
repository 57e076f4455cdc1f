"""The kinds of files, told apart by their first bytes and their header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

KEY = "edmfast"
"""The key under which edmfast's files hold their metadata or their kind."""

MODEL = "model"
PARTICLES = "file of particles"
RUN_CHECKPOINT = "checkpoint of smc.sample"
TRAINING_CHECKPOINT = "checkpoint of distill"
EMA_SNAPSHOT = "snapshot of an average"
MIXTURE = "mixture of Gaussians"
FEATURES = "network of features"
V3_STATISTICS = "file of statistics of DPM-Solver-v3"
NOISE_PAIRS = "file of pairs of noise and sample"
GENERATED = "file of generated samples"
PICTURE = "picture"
EMPTY = "empty file"
OTHER = "file that edmfast did not write"

_BY_FORMAT = {
    "edmfast-model": MODEL,
    "edmfast-distill": TRAINING_CHECKPOINT,
    "edmfast-ema-snapshot": EMA_SNAPSHOT,
}
_BY_KIND = {
    "particles": PARTICLES,
    "smc": RUN_CHECKPOINT,
    "mixture": MIXTURE,
    "generated-samples": GENERATED,
    "dpm-solver-v3": V3_STATISTICS,
    "features": FEATURES,
    "noise-pairs": NOISE_PAIRS,
}
_PICTURES = (b"\x89PNG", b"%PDF", b"\xff\xd8\xff", b"<svg", b"<?xml", b"%!PS", b"GIF8")
_LARGEST_TABLE = 1 << 24
"""The size in bytes up to which a file is read as JSON. The tables that edmfast writes are far smaller."""


def kind_of(path: Path) -> str:
    """Return the kind of a regular file: one of the names above, or the kind that a JSON file names."""
    size = path.stat().st_size
    if size == 0:
        return EMPTY
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(_PICTURES):
        return PICTURE
    # A safetensors file starts with the length of its header in 8 bytes, a table with a brace.
    if start[:1] == b"{":
        return _kind_of_table(path) if size <= _LARGEST_TABLE else OTHER
    return _kind_of_tensors(path)


def _kind_of_table(path: Path) -> str:
    try:
        kind = json.loads(path.read_bytes())[KEY]
    # A foreign file may hold anything, even nesting deeper than the reader's stack.
    except (ValueError, LookupError, TypeError, RecursionError):
        return OTHER
    return kind if isinstance(kind, str) else OTHER


def _kind_of_tensors(path: Path) -> str:
    try:
        with safe_open(path, framework="pt") as file:
            header: Any = json.loads((file.metadata() or {})[KEY])
        # Models and trainings name their format, particles and runs their kind.
        return _BY_FORMAT.get(header.get("format"), _BY_KIND.get(header.get("kind"), OTHER))
    except (SafetensorError, OSError, ValueError, LookupError, AttributeError, RecursionError):
        return OTHER
    except TypeError:
        # The header has values that cannot be dictionary keys.
        return OTHER
