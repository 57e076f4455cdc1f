"""Write the block of docs/choosing.md that compares the laws of controlled sampling, from the JSON of
`bench.studies.control` and nowhere else."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from bench.report.records import Record
from bench.report.sections import table

START, END = "<!-- laws: python -m bench.report -->", "<!-- end of laws -->"
_PARTICLES = 256


def block(record: Record) -> str:
    """Return the total variation of the masses by every law, one column for each task, in Markdown."""
    content = record.content
    shown = [one for one in content["comparisons"] if one["particles"] == _PARTICLES]
    by_task = {one["task"]: {row["law"]: row for row in one["rows"]} for one in shown}
    laws = list(dict.fromkeys(row["law"] for one in shown for row in one["rows"]))
    header = ("law", "steps", "evaluations", *by_task, "variance", "ancestors")
    rows = []
    for law in laws:
        found = {task: rows_of_task.get(law) for task, rows_of_task in by_task.items()}
        first = next(row for row in found.values() if row is not None)
        rows.append(
            (
                law,
                str(first["steps"]),
                _cost(shown, first),
                *(_mean(row, "tv", "{:.2f}") for row in found.values()),
                _mean(first, "variance", "{:.3g}"),
                _mean(first, "ancestors", "{:.3g} %"),
            )
        )
    where = (
        f"Measured on {content['device_name']}, commit {content['commit']}: {_PARTICLES} particles, means over "
        f"{shown[0]['populations']} runs."
    )
    return f"{where}\n\n{table(header, rows)}"


def _cost(shown: Sequence[dict[str, Any]], row: dict[str, Any]) -> str:
    """Return forward passes and vector-Jacobian products of one model for a particle."""
    models = next(one["models"] for one in shown if row in one["rows"])
    return f"{row['forwards'] // models} + {row['vjps'] // models}"


def _mean(row: dict[str, Any] | None, name: str, form: str) -> str:
    values = row["numbers"].get(name) if row else None
    return form.format(statistics.fmean(values)) if values else ""
