"""Write the parts of the report in Markdown, from the JSON of results alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bench.harness.registry import Case
from bench.harness.table import duration, memory
from bench.report import reasons
from bench.report.records import Record


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; bars in cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines
    )


def provenance(record: Record) -> str:
    """Return the machine, date, commit, versions, and the measured floors."""
    run = record.content
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    parts = [f"{run['device_name']}, {run['date']}, commit {run['commit']}, {versions}."]
    if run["device"] == "cpu":
        parts.append(f"{run['threads']} thread{'s' if run['threads'] > 1 else ''}.")
    elif replayed := sum(case.get("timer") == "graphs" for case in run["cases"]):
        parts.append(f"{replayed} of {len(run['cases'])} cases replayed CUDA graphs.")
    gemm = ", ".join(
        f"{dtype.removeprefix('torch.')} {rate / 1e9:.4g} Gflop/s"
        for dtype, rate in run["floors"]["gemm"].items()
    )
    parts.append(f"Copy bandwidth {run['floors']['bandwidth'] / 1e9:.3g} GB/s; products: {gemm}.")
    if left_out := run.get("left_out"):
        parts.append(f"No time was left for {len(left_out)} cases: {', '.join(left_out)}.")
    return " ".join(parts)


def missed(record: Record) -> str:
    """Return the cases that miss a goal, with the measured reason; they open the report."""
    run = record.content
    rows = [
        (case["name"], "; ".join(goals_missed), reasons.reason(case, run))
        for case in run["cases"]
        if (goals_missed := reasons.missed(case))
    ]
    if not rows:
        return "Every goal is met."
    return table(("case", "missed", "measured reason"), rows)


def all_cases(record: Record) -> str:
    """Return every case with every baseline, of which the best one is bold."""
    header = (
        "case",
        "direction",
        "ours",
        "goal",
        *_COLUMNS,
        "others",
        "other goals",
        "of floor",
        "peak",
    )
    return table(header, (_row(case) for case in record.content["cases"]))


_COLUMNS = {
    "eager": ("eager", "eager torch", "autograd", "torch"),
    "compiled": ("compile", "compile of "),
}
"""Names of baselines by column; one that ends with a space is the beginning of names."""


def _row(case: dict[str, Any]) -> tuple[str, ...]:
    # older files have no such field
    name, direction = case["name"], case.get("direction", "")
    if case["ratio"] is None:
        return name, direction, "FAILED", *[""] * (len(_COLUMNS) + 5)
    timings = case["timings"]
    placed: dict[str, list[str]] = {}
    for rival in timings:
        if rival == "ours" or rival in case.get("no_rivals", case["goals"]):
            continue
        column = _column(rival)
        label = "" if rival == column or rival == "compile" else f"{rival} "
        ratio = timings[rival]["median"] / timings["ours"]["median"]
        cell = f"{label}{duration(timings[rival]['median'])}, {ratio:.2f}x"
        placed.setdefault(column, []).append(
            f"**{cell}**" if rival == case["best_baseline"] else cell
        )
    return (
        name,
        direction,
        spread(timings["ours"]),
        f"{case['goal']:.2g}x",
        *("; ".join(placed.get(column, [])) for column in (*_COLUMNS, "others")),
        "; ".join(
            f"{name} {against(r, case['goals'][name])}" for name, r in case["bounds"].items()
        ),
        f"{case['floor_fraction']:.0%}" if case["floor_fraction"] else "",
        memory((case.get("peak_bytes") or {}).get("ours")),
    )


def _column(rival: str) -> str:
    for column, names in _COLUMNS.items():
        if any(rival.startswith(name) if name.endswith(" ") else rival == name for name in names):
            return column
    return "others"


def refused(record: Record) -> str:
    """Return the implementations that were not timed, because they failed their check or could not be measured."""
    rows = [
        (case["name"], name, reason)
        for case in record.content["cases"]
        for name, reason in case["failures"].items()
    ]
    return table(("case", "not timed", "why"), rows) if rows else ""


def not_run(record: Record, cases: Sequence[Case]) -> str:
    """Return the registered cases that this run lacks: newer ones, or those for which no time was left."""
    measured = {case["name"] for case in record.content["cases"]}
    waiting = [case for case in cases if case.name not in measured and not case.needs]
    return unmeasured(waiting, record.content["device"]) if waiting else ""


def against(ratio: float, goal: float) -> str:
    return f"{ratio:.2f}x (goal {goal:.2g}x)"


def spread(timing: dict[str, Any]) -> str:
    """Return the median and the 20th to 80th percentile."""
    return f"{duration(timing['median'])} ({duration(timing['p20'])} - {duration(timing['p80'])})"


def runs(record: Record) -> str:
    """Return whole runs by network evaluations: their rate, and the time outside of the network."""
    rows = []
    for case in record.content["cases"]:
        if not case.get("evaluation_rate"):
            continue
        ours = case["timings"]["ours"]["median"]
        inner, plain = (case["timings"].get(name) for name in (case.get("inner"), "ancestral"))
        rows.append(
            (
                case["name"],
                f"{case['evaluation_rate']:.4g}",
                f"{inner['median'] / ours:.3f}" if inner else "",
                f"{ours / plain['median'] - 1:+.1%}" if plain else "",
            )
        )
    if not rows:
        return ""
    header = ("case", "particles x evaluations / s", "network alone / run", "run / ancestral - 1")
    return table(header, rows)


def unmeasured(cases: Sequence[Case], device: str = "cuda") -> str:
    """Return the cases that wait for a device, with their goals."""
    rows = ((case.name, goals(case, device), "unmeasured") for case in cases)
    return table(("case", "goal", "measured"), rows)


def goals(case: Case, device: str = "cuda") -> str:
    """Return all goals of a case on a device, in one line."""
    rivals = ", ".join(name for name in case.baselines if name not in case.bounds)
    parts = [f"{case.goal:.2g}x the best of {rivals}"]
    parts += [f"{goal:.2g}x {name}" for name, goal in case.goals.items()]
    parts += [f"{goal:.2g}x less memory than {name}" for name, goal in case.memory_goals.items()]
    if device in case.floor_goals:
        parts.append(f"{case.floor_goals[device]:.0%} of the floor")
    return "; ".join(parts)
