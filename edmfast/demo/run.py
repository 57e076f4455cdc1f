"""Run the demonstration on handwritten digits from end to end.

A teacher is distilled into an energy. Then come the parts: (a) quality of distillation, (b) low temperature,
(c) composition, (d) mode masses with a known truth, and (e) proposals on an exact energy. Each part draws one
picture, and all share one table.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from edmfast._internal.atomic_write import replacing
from edmfast._internal.numbers import as_int
from edmfast.demo import teacher as teachers
from edmfast.demo.budget import FULL, QUICK
from edmfast.demo.classifier import DigitClassifier
from edmfast.demo.digits import halves
from edmfast.demo.part_composition import report_composition
from edmfast.demo.part_distillation import report_distillation, train_energies
from edmfast.demo.part_low_temperature import report_temperature
from edmfast.demo.part_mode_masses import report_mixtures
from edmfast.demo.part_proposals import report_proposals
from edmfast.demo.table import render
from edmfast.plotting import new_figure

_HIGHEST_SEED = 2**62
"""The parts add small numbers to the seed, so it must not be the largest integer."""


def run(
    out: str | os.PathLike[str] = "out", quick: bool = False, retrain: bool = False, seed: int = 0
) -> str:
    """Run all parts, write pictures, models and table.txt to the folder out, and return the table.

    quick: do less of everything, in under a minute. retrain: first train the teacher again, which replaces its
    shipped weights. Ctrl-C during training leaves a checkpoint in the folder and says where it is.

    Raises ValueError, OSError or ImportError for a bad seed or folder or a missing package, before any work is
    done.
    """
    seed = as_int("seed", seed, least=0, most=_HIGHEST_SEED)
    folder = Path(out)
    _check_folders(folder, retrain)
    new_figure(1, 1)  # raises now, and not after minutes of training, where matplotlib is missing
    with _one_thread():
        return _run_parts(folder, quick, retrain, seed)


def _check_folders(folder: Path, retrain: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot write pictures to {folder}: it is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    # retraining writes into the package
    for place in [folder, *([teachers.SHIPPED.parent] if retrain else [])]:
        if not os.access(place, os.W_OK):
            raise PermissionError(f"cannot write to the folder {place}")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread inside the block.

    The models are so small that threads waiting for each other on a busy machine cost ten times what they gain.
    Their number would also change the last bits of the results.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run_parts(folder: Path, quick: bool, retrain: bool, seed: int) -> str:
    budget = QUICK if quick else FULL
    started = time.perf_counter()

    def log(message: str) -> None:
        # the table goes to stdout, which progress must not mix with
        print(f"[{time.perf_counter() - started:4.0f} s] {message}", file=sys.stderr, flush=True)

    if retrain:
        log(f"training the teacher: {teachers.SHIPPED}")
        teachers.retrain()
    teacher = teachers.load_teacher()
    training, held_out = halves()
    log("training the classifier on the held-out half of the digits")
    classifier = DigitClassifier(held_out)
    log("distilling the teacher into an energy, then training one by score matching on data (DSM)")
    energies = train_energies(teacher, training, budget, folder, seed=seed)
    log("(a) distillation: samples, Fréchet distances and self-check")
    sections = report_distillation(
        teacher, energies, training, held_out, classifier, budget, folder, seed=seed
    )
    energy = energies.distilled
    log("(b) low temperature")
    sections += report_temperature(energy, held_out, classifier, budget, folder, seed=seed)
    log("(c) composition")
    sections += report_composition(energy, held_out, classifier, budget, folder, seed=seed)
    log("(d) mode masses with a known truth")
    sections += report_mixtures(budget, folder, seed=seed)
    log("(e) proposals on an exact energy")
    sections += report_proposals(budget, folder, seed=seed)
    table = render(sections)
    with replacing(folder / "table.txt") as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")
    print(table)
    log(f"done: pictures, models and table.txt are in {folder.resolve()}")
    return table
