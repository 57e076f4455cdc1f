"""Imports of MODULE:NAME from the working folder, which a console script does not search by itself."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def working_folder() -> Iterator[None]:
    """Import from the working folder too within the block."""
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
