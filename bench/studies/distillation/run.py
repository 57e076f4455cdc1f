"""Measure students of the exact mixture of the digits at equal steps: energies, denoisers and two heads.

    python -m bench.studies.distillation                       # all students, each some minutes on one core
    python -m bench.studies.distillation --only inner          # one of them
    python -m bench.studies.distillation --quick               # a look: few steps of a narrow network
    python -m bench.studies.distillation --json A.json --picture B.png     # write numbers and curves

Each student has a row for each seed: its errors by steps and at the end, and its cost in passes of the network.
The folder keeps rows and checkpoints, so that an interrupted study goes on where it was. Exit status 1 where a
goal is missed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.harness import machine
from bench.studies.distillation.measures import LEVELS, judge, means, score_ratio
from bench.studies.distillation.picture import draw
from bench.studies.distillation.recipes import RECIPES, SETTINGS, STEPS
from bench.studies.distillation.training import Size, finished, train
from edmfast._internal.tables import Cell, Section, render

FULL = Size(steps=STEPS, data=30_000, count=1024, more=4096)
QUICK = Size(steps=10, data=256, count=256, more=256, width=8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.distillation")
    parser.add_argument("--only", choices=[*RECIPES], help="train this student alone")
    parser.add_argument(
        "--seeds", type=int, default=2, help="trainings of each student (default 2)"
    )
    parser.add_argument("--report", action="store_true", help="train nothing: finished rows alone")
    parser.add_argument("--quick", action="store_true", help="a look, which is not judged")
    parser.add_argument("--students", metavar="FOLDER", default="out/distillation")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--json", metavar="PATH", help="where to write the numbers")
    parser.add_argument("--picture", metavar="PATH", help="where to write the curves as PNG")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    folder, size = Path(options.students), QUICK if options.quick else FULL
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [options.only] if options.only else [*RECIPES]
    students = [(RECIPES[name], seed) for name in chosen for seed in range(options.seeds)]
    if options.report:
        found = [finished(recipe, folder, seed) for recipe, seed in students]
        rows = [row for row in found if row is not None]
    else:
        rows = [train(recipe, folder, size, seed) for recipe, seed in students]
    print(render([_section(rows)]))
    # a quick run is too short for a judgement
    goals = [] if options.quick else judge(means(rows))
    lines = [f"goal: {goal}: {'met' if met else 'missed'}" for goal, met in goals]
    print("\n".join(lines))
    if options.json:
        facts = {
            "commit": machine.commit(),
            "versions": machine.versions(),
            "device_name": machine.device_name(torch.device("cpu")),
            "levels": LEVELS,
            "settings": SETTINGS,
            "goals": lines,
            "rows": rows,
        }
        Path(options.json).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    if options.picture:
        draw(rows, Path(options.picture))
    return int(not all(met for _, met in goals))


def _passes(name: str, rows: Sequence[dict[str, Any]]) -> int:
    """Return the passes of a student's training, 0 for a teacher that was not trained here."""
    return next((row["passes"] * row["steps"] for row in rows if row["name"] == name), 0)


def _section(rows: Sequence[dict[str, Any]]) -> Section:
    ends = means(rows)
    plain = ends.get("denoiser")
    cells: list[list[Cell]] = []
    for name, end in ends.items():
        same = [row for row in rows if row["name"] == name]
        energies = [f"{value:.2f}" for value in end.get("between", [])] or ["-"] * len(LEVELS)
        ratio = "-" if plain is None else f"{score_ratio(end, plain):.3f}"
        passes = _passes(name, rows) + _passes(same[0]["teacher"], rows)
        cells.append([name, len(same), same[0]["steps"], passes, ratio, *energies])
    header = ["student", "seeds", "steps", "passes", "score", *(f"σ={level:g}" for level in LEVELS)]
    notes = [
        "Errors are means over the seeds.",
        "score: error of the denoised states over that of the denoiser; σ=…: nats between components",
        "passes: forward passes of the network on one batch that the training costs, with that of its teacher",
    ]
    return Section("students of the smooth digits", header, cells, notes)
