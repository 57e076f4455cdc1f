"""Write the parts of the report that come from files beside full runs: repeats, scaling, kernels, control,
targets, learned energies, the Fokker–Planck loss, the list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.harness.registry import Case
from bench.harness.table import duration
from bench.report import repeats as repeated
from bench.report.records import RUN, Record
from bench.report.sections import all_cases, table
from bench.studies.fokker_planck.run import DISTANCES, means
from bench.studies.scaling import projection as scaling_projection


def _from(record: Record) -> str:
    return f"From `{record.device}/{record.path.name}`."


def repeats(record: Record, cases: Sequence[Case]) -> str:
    """Return the cases that are slower in most of several full runs; `cases` give the reasons of physics."""
    content = record.content
    counts = " and ".join(
        f"{len(dates)} on {threads} thread{'s' * (threads != '1')}"
        for threads, dates in content["runs"].items()
    )
    found = repeated.lines(content)
    said = (
        f"{_from(record)} Full runs of one commit: {counts}. {len(found)} of {len(content['cases'])} cases have a "
        "ratio below 1 in more than half of the runs with some number of threads."
    )
    if not found:
        return said
    why = {case.name: case.why_slower for case in cases}
    rows = [(name, ratios, why.get(name) or "not known", reason) for name, ratios, reason in found]
    return f"{said}\n\n{table(('case', 'ratio in each run', 'why', 'measured'), rows)}"


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


def some_cases(record: Record) -> str:
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


def learned(record: Record) -> str:
    levels = record.content["levels"]
    rows = []
    for row in record.content["rows"]:
        laws = {(mass["gamma"], mass["law"]): mass for mass in row.get("masses", [])}
        variations = [
            " / ".join(
                f"{laws[gamma, law]['total_variation']:.2f}" if (gamma, law) in laws else "-"
                for law in ("reversal", "hybrid", "energy")
            )
            for gamma in (1.25, 2.0)
        ]
        errors = [
            " ".join(f"{value:.2f}" for value in row[name]) if name in row else ""
            for name in ("between", "on_square", "score")
        ]
        cost = f"{row['steps']} steps, {row['cpu_seconds']} s" if "cpu_seconds" in row else ""
        network = f"{row['width']}×{row['depth']} {row['potential']}" if "width" in row else ""
        teacher = row.get("teacher", "")
        rows.append((row["name"], teacher, network, cost, *errors, *variations))
    header = (
        "student",
        "teacher",
        "network",
        "training",
        "between components",
        "on p²",
        "score error",
        "TV at γ = 1.25",
        "TV at γ = 2",
    )
    at = ", ".join(f"{level:g}" for level in levels)
    notes = [
        f"Between components, on p²: sd of the energy's error in nats at σ = {at}; score error: times σ, there.",
        "TV: total variation of the masses of p^γ by weights of reversals / hybrid / energies.",
    ]
    notes += record.content.get("notes", [])
    listed = "\n".join(f"- {note}" for note in notes)
    return f"{_from(record)}\n\n{table(header, rows)}\n\n{listed}"


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


def fokker_planck(record: Record) -> str:
    content = record.content
    rows = []
    for mode, weight in dict.fromkeys((row["mode"], row["weight"]) for row in content["rows"]):
        same = [row for row in content["rows"] if (row["mode"], row["weight"]) == (mode, weight)]
        found = means(same)
        numbers = [f"{found[name]:.3f}" for name in DISTANCES[:3]]
        errors = [
            f"{found[name]:.3g}" if name in found else "" for name in ("residual", "denoiser")
        ]
        rows.append((mode, "" if mode == "exact" else f"{weight:g}", len(same), *errors, *numbers))
    header = ("student", "weight", "seeds", "σ R in nats", "denoiser error")
    distances = ("ODE to SDE", "ODE to data", "SDE to data")
    ways = [
        (row["way"], *(f"{error:g}" for error in row["errors"]), f"{row['milliseconds']:g} ms")
        for row in content["derivatives"]["rows"]
    ]
    levels = [f"σ = {sigma:g}" for sigma in content["derivatives"]["sigmas"]]
    settings = content["settings"]
    notes = [
        f"Sliced W2 of {settings['count']} samples by {settings['levels']} steps, means over seeds. The exact "
        "denoiser's distances are those of chance.",
        "σ R and the denoiser's error over σ: root mean squares over noise levels.",
        "Ways to differentiate: errors relative to those of a probe, and the time of residual and gradients.",
    ]
    listed = "\n".join(f"- {note}" for note in notes)
    shown = table((*header, *distances), rows)
    return f"{_from(record)}\n\n{shown}\n\n{table(('way', *levels, 'time'), ways)}\n\n{listed}"
