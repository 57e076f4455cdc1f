"""Measure what distilled energies learn, in nats and by masses of p^gamma, on the smooth mixture of the digits.

    python -m bench.studies.learned                          # all recipes, each a few minutes on one core
    python -m bench.studies.learned --only "path values"     # those with this in their names
    python -m bench.studies.learned --teacher PATH           # from a denoiser of `edmfast.demo.smooth_denoiser`

Each student has a row: the sd of its error between components, on draws of p and on draws of p² at several noise
levels, the error of its score in units of 1/sigma, the CPU seconds of its training, and the total variation of the
masses of p^1.25 and p² by each law. --json adds the rows to those in a file, so that a study can be done in parts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.harness import machine
from bench.studies.learned.control import control
from bench.studies.learned.recipes import RECIPES, Recipe, train
from edmfast.demo.smooth_digits import load_smooth_digits
from edmfast.diagnostics import energy_error
from edmfast.distill import DistillConfig
from edmfast.models import EnergyModel, load_model, save_model

LEVELS = (0.06, 0.1, 0.2, 0.4, 1.0)
EXPONENTS = (1.25, 2.0)
LAWS_OF_ENERGIES = ("reversal", "hybrid", "energy")
LAWS_OF_DENOISERS = ("reversal",)


def errors_of(student: EnergyModel) -> dict[str, list[float]]:
    """Return the errors of an energy in nats at LEVELS, and of its score."""
    exact = load_smooth_digits()
    error = energy_error(student, exact, LEVELS)
    columns = {"between": error.between, "on_p": error.on_p, "on_square": error.on_square}
    numbers = {name: [round(float(v), 3) for v in values] for name, values in columns.items()}
    return {**numbers, "score": score_errors(student)}


def score_errors(model: nn.Module) -> list[float]:
    """Return the root mean squared error of the denoised states divided by sigma, at LEVELS."""
    exact, found = load_smooth_digits(), []
    for sigma in LEVELS:
        x = exact.sample(1024, sigma, seed=11)
        with torch.no_grad():
            error = (model(x.float(), sigma).double() - exact(x, sigma)).square().mean().sqrt()
        found.append(round(float(error) / sigma, 4))
    return found


def masses_of(model: Any, laws: Sequence[str], populations: int) -> list[dict[str, Any]]:
    """Return the errors of the masses of p^gamma by each law."""
    rows = []
    for gamma in EXPONENTS:
        for law in laws:
            rows.append(control(model, gamma, law, populations=populations))
            print(f"    {rows[-1]}", flush=True)
    return rows


def measure(
    recipe: Recipe, teacher: nn.Module | None, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Train a student, save it in the folder and return its row."""
    started = time.process_time()
    student = train(recipe, teacher, progress=sys.stderr.isatty(), steps=options.steps)
    seconds = time.process_time() - started
    save_model(student, folder / f"{recipe.name.replace(' ', '_')}.safetensors", overwrite=True)
    row: dict[str, Any] = {
        "name": recipe.name,
        "teacher": "exact" if teacher is None else "learned",
        "width": recipe.width,
        "depth": recipe.depth,
        "potential": recipe.potential,
        "start": recipe.start,
        "steps": options.steps or DistillConfig(**recipe.settings).steps,
        "settings": recipe.settings,
        "cpu_seconds": round(seconds),
        **errors_of(student),
    }
    print(json.dumps(row, ensure_ascii=False), flush=True)
    if options.populations:
        row["masses"] = masses_of(student, LAWS_OF_ENERGIES, options.populations)
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.learned")
    parser.add_argument("--only", default="", help="a recipe, or all with this in their names")
    parser.add_argument("--teacher", metavar="PATH", help="a learned denoiser to distil")
    parser.add_argument("--steps", type=int, help="training steps of every recipe, for a look")
    parser.add_argument(
        "--populations", type=int, default=8, help="runs of each law; 0 runs none (default 8)"
    )
    parser.add_argument("--students", metavar="FOLDER", default="out/learned")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--json", metavar="PATH", help="the file to which the rows are added")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    folder = Path(options.students)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    teacher: nn.Module | None = None
    if options.teacher:
        # without a label a class-conditional denoiser is that of the whole mixture
        teacher = load_model(options.teacher)
        row: dict[str, Any] = {"name": "denoiser", "score": score_errors(teacher)}
        print(json.dumps(row), flush=True)
        if options.populations:
            row["masses"] = masses_of(teacher, LAWS_OF_DENOISERS, options.populations)
        rows.append(row)
    # a whole name means that recipe alone, and a part of a name all that have it
    exact = options.only in RECIPES
    chosen = [
        recipe
        for name, recipe in RECIPES.items()
        if (name == options.only if exact else options.only in name)
    ]
    rows += [measure(recipe, teacher, folder, options) for recipe in chosen]
    if options.json:
        _add(Path(options.json), rows)
    return 0


def _add(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to those of the file, and say where they were measured."""
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    facts = {
        "commit": machine.commit(),
        "versions": machine.versions(),
        "device_name": machine.device_name(torch.device("cpu")),
        "levels": LEVELS,
        "rows": before + rows,
    }
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
