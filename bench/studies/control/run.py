"""Measure laws of controlled sampling against exact answers: `python -m bench.studies.control [options]`.

Options: [--quick] [--students FOLDER] [--json PATH]. The model is the smooth mixture of the digits, whose powers
and products are known. The first tables compare laws at equal numbers of evaluations: scaled scores, Feynman–Kac
correctors, SuperDiff, RNE, DriftLite, replica exchange, energies, matched reversals and hybrids, for p², p^1.25
and the product of two classes, with 256 and with 64 particles. Others show what the kernels of energies and the
threshold of resampling do. With --students there is a last table of distilled energies; those that FOLDER does
not hold are trained, which takes a quarter of an hour. The other tables take ten minutes. Exit status 1 where a
goal is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.harness import machine
from bench.studies.control import kernels, students
from bench.studies.control.comparison import as_json, compare, section
from bench.studies.control.goals import judge
from bench.studies.control.laws import Size
from bench.studies.control.measures import COLUMNS, NOTES, answer_of, note_on_draws, numbers_of
from bench.studies.control.tasks import digit_tasks
from edmfast._internal.tables import Section, render


@dataclasses.dataclass(frozen=True)
class Budget:
    """The amount of measurement. student_steps: the steps of the students' training, 0 for all of them."""

    sizes: tuple[Size, ...]
    kernels: Size
    thresholds: Size
    draws: int
    student_particles: int
    student_steps: int = 0


FULL = Budget(
    sizes=(Size(256, 16, 0.4, 64, 200), Size(64, 32, 0.4, 64, 200)),
    kernels=Size(500, 4, 0.5, 0, 200),
    thresholds=Size(64, 32, 0.4, 0, 0),
    draws=4000,
    student_particles=1000,
)
QUICK = Budget(
    sizes=(Size(32, 8, 0.4, 12, 16),),
    kernels=Size(32, 2, 0.5, 0, 16),
    thresholds=Size(16, 2, 0.4, 0, 0),
    draws=400,
    student_particles=32,
    student_steps=2,
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.studies.control", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look: little of all")
    parser.add_argument("--students", metavar="FOLDER", help="measure distilled energies too")
    parser.add_argument("--seed", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--json", metavar="PATH", help="where to write the numbers")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    budget = QUICK if options.quick else FULL
    tables: list[Section] = []
    numbers: list[dict[str, Any]] = []

    def show(table: Section) -> None:
        print(render([table]) + "\n", flush=True)
        tables.append(table)

    tasks = digit_tasks()
    answers = [answer_of(task, budget.draws) for task in tasks]
    for size in budget.sizes:
        for task, answer in zip(tasks, answers, strict=True):
            rows = [*compare(task, partial(numbers_of, answer), size, options.seed)]
            title = (
                f"{task.name}: {size.particles} particles, {size.populations} populations, "
                f"threshold {size.threshold:g}"
            )
            show(section(title, rows, COLUMNS, [*NOTES, note_on_draws(answer, size.particles)]))
            numbers.append(as_json(task, size, rows))
    show(kernels.kernels(tasks[:1], budget.kernels, options.seed))
    show(kernels.thresholds(tasks[0], budget.thresholds, options.seed))
    if options.students:
        show(_students(Path(options.students), budget, options.seed))
    # a quick run is too small for a judgement
    goals = [] if options.quick else judge(numbers)
    lines = [f"goal: {goal}: {'met' if met else 'missed'}" for goal, met in goals]
    print("\n".join(lines))
    if options.json:
        facts = {
            "commit": machine.commit(),
            "versions": machine.versions(),
            "device_name": machine.device_name(torch.device("cpu")),
            "seed": options.seed,
            "quick": options.quick,
            "goals": lines,
            "comparisons": numbers,
            "tables": [dataclasses.asdict(table) for table in tables],
        }
        Path(options.json).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return int(not all(met for _, met in goals))


def _students(folder: Path, budget: Budget, seed: int) -> Section:
    folder.mkdir(parents=True, exist_ok=True)
    progress = sys.stderr.isatty()
    trained = {
        recipe.name: students.load_student(
            recipe, folder, steps=budget.student_steps, progress=progress
        )
        for recipe in students.PERCEPTRONS
    }
    return students.section(trained, budget.student_particles, 4, seed)
