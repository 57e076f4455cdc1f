"""The table of laws of `bench.studies.control`: every law on one task, at equal numbers of evaluations.

The populations of a run are taken in groups of `GROUP`. The total variation of the mean compares the masses that a
group has on average with the exact ones, so that errors of single populations cancel as far as they are
independent; that per run compares every population. Errors are standard errors over groups or populations.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from bench.rivals.control import Outcome
from bench.studies.control.laws import LAWS, Law, Size
from bench.studies.control.tasks import Task
from edmfast.demo.table import Cell, Section

GROUP = 8
"""Number of populations whose mean masses are compared with the truth."""
Measures = Callable[[Outcome], Mapping[str, Tensor]]


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
        numbers = {name: values.tolist() for name, values in measures(outcome).items()}
        numbers["ancestors"] = (100 * outcome.ancestors).tolist()
        if outcome.log_z is not None:
            numbers["variance"] = outcome.variance.tolist()
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


def as_json(title: str, size: Size, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers of a table with all their digits."""
    return {"task": title, **size._asdict(), "rows": [dataclasses.asdict(row) for row in rows]}
