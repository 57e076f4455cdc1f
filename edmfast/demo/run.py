"""The digits demonstration, end to end: real digits in, controlled samples out.

teacher -> distilled and DSM energies -> (a) quality, (b) low temperature, (c) composition,
(d) mixtures with a known truth, (e) proposals on exact energies. One picture per part, one table.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from edmfast._internal.numbers import as_int
from edmfast.demo import teacher as teachers
from edmfast.demo.budget import FULL, QUICK
from edmfast.demo.data import halves
from edmfast.demo.judge import Judge
from edmfast.demo.part_composition import report_composition
from edmfast.demo.part_distil import report_distillation, train_energies
from edmfast.demo.part_exact import report_proposals
from edmfast.demo.part_mixture import report_mixtures
from edmfast.demo.part_temperature import report_temperature
from edmfast.demo.pictures import new_figure
from edmfast.demo.table import render

_HIGHEST_SEED = 2**62
"""Parts add small numbers to the seed."""


def run(
    out: str | os.PathLike[str] = "out", quick: bool = False, retrain: bool = False, seed: int = 0
) -> str:
    """Do all parts; pictures, models and table.txt go to the folder out. Returns the table.

    quick: less of everything, under a minute. retrain: first train the teacher again, in place of
    the shipped weights. Ctrl-C while training leaves a checkpoint in out and says where.

    Raises ValueError, OSError or ImportError before any work is done, where a seed, a folder or a package will
    not do.
    """
    seed = as_int("seed", seed, least=0, most=_HIGHEST_SEED)
    folder = Path(out)
    _check_folders(folder, retrain)
    new_figure(1, 1)  # a missing matplotlib is told now, not after minutes of training
    with _one_thread():
        return _run(folder, quick, retrain, seed)


def _check_folders(folder: Path, retrain: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot write pictures to {folder}: it is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    for place in [folder, *([teachers.SHIPPED.parent] if retrain else [])]:
        if not os.access(place, os.W_OK):
            raise PermissionError(f"cannot write to the folder {place}")


@contextmanager
def _one_thread() -> Iterator[None]:
    """These models are too small to share: threads that wait for each other on a busy machine cost
    ten times what they gain, and their number would change the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run(folder: Path, quick: bool, retrain: bool, seed: int) -> str:
    budget = QUICK if quick else FULL
    started = time.perf_counter()

    def tell(what: str) -> None:
        print(f"[{time.perf_counter() - started:4.0f} s] {what}", file=sys.stderr, flush=True)

    if retrain:
        tell(f"training the teacher: {teachers.SHIPPED}")
        teachers.retrain()
    teacher = teachers.load_teacher()
    training, held_out = halves()
    tell("training the judge on the held-out half")
    judge = Judge(held_out)
    tell("distilling the teacher into an energy; then the same by score matching on data (DSM)")
    energies = train_energies(teacher, training, budget, folder, seed=seed)
    tell("(a) distillation: samples, Fréchet distances, self-check")
    sections = report_distillation(
        teacher, energies, training, held_out, judge, budget, folder, seed=seed
    )
    energy = energies.distilled
    tell("(b) low temperature")
    sections += report_temperature(energy, held_out, judge, budget, folder, seed=seed)
    tell("(c) composition")
    sections += report_composition(energy, held_out, judge, budget, folder, seed=seed)
    tell("(d) mixtures with a known truth")
    sections += report_mixtures(budget, folder, seed=seed)
    tell("(e) proposals on exact energies")
    sections += report_proposals(budget, folder, seed=seed)
    table = render(sections)
    (folder / "table.txt").write_text(table + "\n", encoding="utf-8")
    print(table)
    tell(f"done: pictures, models and table.txt are in {folder.resolve()}")
    return table
