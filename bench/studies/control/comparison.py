"""The table of laws of `bench.studies.control`: every law on one task, at equal numbers of evaluations."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench.rivals.control import Outcome
from bench.studies.control.laws import LAWS, Law, Size
from bench.studies.control.tasks import Task
from edmfast._internal.tables import Cell, Section

Measures = Callable[[Outcome], dict[str, list[float]]]
"""Numbers of an outcome, by the names of columns: lists over groups of populations or over populations."""


@dataclasses.dataclass(frozen=True)
class Row:
    """The numbers of one law on one task. numbers: lists over groups or populations, by the names of columns."""

    law: str
    steps: int
    forwards: int
    vjps: int
    numbers: dict[str, list[float]]


def compare(
    task: Task, measures: Measures, size: Size, seed: int, laws: Sequence[Law] = LAWS
) -> Iterator[Row]:
    """Yield a row for every law that applies to the task."""
    for law in laws:
        if law.products_only and len(task.models) < 2:
            continue
        outcome = law(task, size, seed)
        numbers = measures(outcome)
        yield Row(law.name, law.steps(size), outcome.forwards, outcome.vjps, numbers)


def section(
    title: str, rows: Sequence[Row], columns: Mapping[str, str], notes: Sequence[str]
) -> Section:
    """Return the rows as a table. columns: names of numbers, and their titles."""
    header = ["law", "steps", "forward + vjp", *columns.values()]
    cells: list[list[Cell]] = []
    for row in rows:
        measured = [mean_and_error(row.numbers.get(name, ())) for name in columns]
        cells.append([row.law, row.steps, f"{row.forwards} + {row.vjps}", *measured])
    return Section(title, header, cells, notes)


def mean_and_error(values: Sequence[float]) -> str:
    """Format mean ± standard error with two digits of the error; a single value as it is."""
    if not values:
        return "-"
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.3g}"
    return f"{mean:.3g} ± {statistics.stdev(values) / len(values) ** 0.5:.1g}"


def as_json(task: Task, size: Size, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers of a table with all their digits."""
    facts = {"task": task.name, "models": len(task.models), **size._asdict()}
    return {**facts, "rows": [dataclasses.asdict(row) for row in rows]}
