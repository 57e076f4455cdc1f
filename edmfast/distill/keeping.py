"""The older and the best checkpoints of a run, beside the newest one.

The newest checkpoint lies at the path of the run, run.safetensors. The last k are kept as
run.step-00000500.safetensors and so on, and the best as run.best.safetensors. They are further names of the same
file where the file system has hard links, so that they cost no time.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from edmfast._internal.file_kinds import TRAINING_CHECKPOINT, kind_of


def keep_step(path: Path, step: int, count: int) -> None:
    """Give the checkpoint at path a name of its step, and remove those of earlier steps beyond the last count."""
    if count <= 1:
        return
    _name_again(path, path.with_suffix(f".step-{step:08d}{path.suffix}"))
    for old in steps_of(path)[:-count]:
        old.unlink()


def keep_best(path: Path) -> Path:
    """Give the checkpoint at path the name of the best one, and return it."""
    best = best_of(path)
    _name_again(path, best)
    return best


def best_of(path: Path) -> Path:
    """Return the name of the best checkpoint beside path."""
    return path.with_suffix(f".best{path.suffix}")


def steps_of(path: Path) -> list[Path]:
    """Return the checkpoints of single steps beside path, in the order of their steps.

    A file of that name which is no checkpoint of a training is left out.
    """
    pattern = re.compile(re.escape(path.stem) + r"\.step-\d{8,}" + re.escape(path.suffix))
    found = [other for other in path.parent.iterdir() if pattern.fullmatch(other.name)]
    return sorted(other for other in found if kind_of(other) == TRAINING_CHECKPOINT)


def _name_again(path: Path, name: Path) -> None:
    if name.exists() and kind_of(name) != TRAINING_CHECKPOINT:
        raise FileExistsError(f"{name} is no checkpoint of a training, and is not replaced")
    # the new name appears as a whole, also where the file must be copied
    temporary = name.with_name(f".{name.name}.{os.getpid()}")
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        os.replace(temporary, name)
    finally:
        temporary.unlink(missing_ok=True)
