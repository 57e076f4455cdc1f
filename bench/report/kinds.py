"""Write the parts of the report that come from files beside full runs: scaling, kernels, control, targets, the
list."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bench.harness.table import duration
from bench.report.records import RUN, Record
from bench.report.sections import all_cases, table
from bench.studies.scaling import projection as scaling_projection


def _from(record: Record) -> str:
    return f"From `{record.device}/{record.path.name}`."


def scaling(record: Record) -> str:
    content = record.content
    rows = [
        (
            axis["name"],
            f"{axis['sizes'][0]:g} to {axis['sizes'][-1]:g} {axis['unit']}",
            f"{duration(axis['seconds'][0])} to {duration(axis['seconds'][-1])}",
            f"{axis['exponent']:.2f} ± {axis['exponent_error']:.2f}"
            if axis.get("exponent") is not None
            else "",
        )
        for axis in content["axes"]
    ]
    parts = [_from(record), table(("cost against", "sizes", "time", "exponent"), rows)]
    if projection := content.get("projection"):
        parts += [_projection(projection)]
    return "\n\n".join(parts)


def _projection(projection: dict[str, Any]) -> str:
    header, *rows = scaling_projection.cells(projection)
    assumptions = "\n".join(f"- {assumption}" for assumption in projection["assumptions"])
    return f"{table(header, rows)}\n\nAssumptions:\n\n{assumptions}"


def startup(record: Record) -> str:
    return f"{_from(record)}\n\n{all_cases(record)}"


def kernels(record: Record) -> str:
    rows = record.content["kernels"]
    counted = Counter(row["architecture"] for row in rows)
    summary = [
        (
            architecture,
            str(number),
            str(sum(row["spilled"] > 0 for row in rows if row["architecture"] == architecture)),
            str(max(row["registers"] for row in rows if row["architecture"] == architecture)),
        )
        for architecture, number in sorted(counted.items())
    ]
    header = ("architecture", "kernels", "that spill", "most registers")
    return f"{_from(record)}\n\n{table(header, summary)}"


def control(record: Record) -> str:
    parts = [_from(record), "\n".join(f"- {goal}" for goal in record.content["goals"])]
    for section in record.content["tables"]:
        parts += [f"**{section['title']}**", table(section["header"], section["rows"])]
        parts += ["\n".join(f"- {note}" for note in section.get("notes") or [])]
    return "\n\n".join(part for part in parts if part)


def targets(record: Record) -> str:
    rows = [
        (
            row["target"],
            row["run"],
            row["quantity"],
            f"{row['value']:.6g}" + (f" ± {row['error']:.2g}" if row["error"] else ""),
            "" if row["truth"] is None else f"{row['truth']:.6g}",
        )
        for row in record.content["rows"]
    ]
    header = ("target", "run", "quantity", "measured", "truth")
    return f"{_from(record)}\n\n{table(header, rows)}"


def files(results: list[Record]) -> str:
    """List every file of results, newest first, with the number of goals that a full run met."""
    rows = []
    for record in reversed(results):
        met = ""
        if record.kind == RUN:
            kept = sum(case["goal_met"] for case in record.content["cases"])
            met = f"{kept} of {len(record.content['cases'])} goals met"
        link = f"[{record.path.name}](results/{record.device}/{record.path.name})"
        rows.append((link, record.device, record.kind, record.date, met))
    return table(("file", "device", "kind", "date", ""), rows)
