"""Run the demonstration on handwritten digits from end to end.

The parts are (a) a smooth model whose p² and products are known exactly, (b) low temperature and (c) composition
from a plain denoiser of it, (d) the energy that is distilled from the denoiser, (e) mode masses in the plane, and
(f) proposals on an exact energy. Each part draws one or two pictures, and all share one table.
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
from edmfast._internal.tables import render
from edmfast.demo.budget import FULL, QUICK
from edmfast.demo.digits import all_digits
from edmfast.demo.part_composition import report_composition
from edmfast.demo.part_energy import report_energy, train_energy
from edmfast.demo.part_low_temperature import report_low_temperature
from edmfast.demo.part_mode_masses import report_mixtures
from edmfast.demo.part_model import report_model
from edmfast.demo.part_proposals import report_proposals
from edmfast.demo.smooth_denoiser import SHIPPED, load_smooth_denoiser, train_smooth_denoiser
from edmfast.demo.smooth_digits import load_smooth_digits
from edmfast.plotting import new_figure

_HIGHEST_SEED = 2**62
"""The parts add small numbers to the seed, so it must not be the largest integer."""


def run(
    out: str | os.PathLike[str] = "out", quick: bool = False, retrain: bool = False, seed: int = 0
) -> str:
    """Run all parts, write pictures, the energy and table.txt to the folder out, and return the table.

    quick: do less of everything, in about a minute on an idle core. retrain: first train the denoiser again,
    which takes eight minutes and replaces its shipped weights. Ctrl-C during training leaves a checkpoint and
    says where it is.

    Raises ValueError, OSError or ImportError for a bad seed or folder or a missing package, before any work is
    done.
    """
    seed = as_int("seed", seed, least=0, most=_HIGHEST_SEED)
    folder = Path(out)
    _check_folders(folder, retrain)
    # these raise now, and not after minutes of work, where matplotlib or scikit-learn is missing
    new_figure(1, 1)
    all_digits()
    with _one_thread():
        return _run_parts(folder, quick, retrain, seed)


def _check_folders(folder: Path, retrain: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot write pictures to {folder}: it is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    # retraining writes into the package
    for place in [folder, *([SHIPPED.parent] if retrain else [])]:
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
        log(f"training the denoiser: {SHIPPED}")
        train_smooth_denoiser()
    mixture, denoiser = load_smooth_digits(), load_smooth_denoiser()
    log("(a) a smooth model of the digits, whose p² and products are known exactly")
    sections = report_model(mixture, folder, seed=seed)
    log("(b) low temperature from a plain denoiser")
    sections += report_low_temperature(mixture, denoiser, budget, folder, seed=seed)
    log("(c) composition from a plain denoiser")
    sections += report_composition(mixture, denoiser, budget, folder, seed=seed)
    log("(d) distilling the denoiser into an energy")
    energy = train_energy(denoiser, mixture, budget, folder, seed=seed)
    sections += report_energy(energy, mixture, budget, folder, seed=seed)
    log("(e) mode masses in the plane")
    sections += report_mixtures(budget, folder, seed=seed)
    log("(f) proposals on an exact energy")
    sections += report_proposals(budget, folder, seed=seed)
    table = render(sections)
    with replacing(folder / "table.txt") as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")
    print(table)
    log(f"done: pictures, the energy and table.txt are in {folder.resolve()}")
    return table
