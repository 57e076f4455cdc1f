"""`read_pickle`: the object of a pickle file, without running anything from it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edmfast.teachers.pickles.calls import meanings_of_networks
from edmfast.teachers.pickles.errors import DamagedPickleError, UnsafePickleError
from edmfast.teachers.pickles.machine import run


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Return the object of a pickle of networks: numbers, tensors, arrays, texts, containers, and `Record`s.

    Nothing in the file is imported, called or compiled; the source text of persistent classes is dropped.

    Raises UnsafePickleError, a ValueError, that names the first thing outside the list of what is read, and
    DamagedPickleError, a ValueError too, for a file that ends too early.
    """
    data = memoryview(Path(path).read_bytes())
    try:
        value, _ = run(data, meanings_of_networks(len(data)))
    except (UnsafePickleError, DamagedPickleError) as error:
        raise type(error)(f"{path}: {error}") from error
    return value
