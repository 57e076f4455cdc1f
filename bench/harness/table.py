"""Format the results of a run as aligned text."""

from __future__ import annotations

from bench.harness.result import Result
from bench.harness.timing import Timing

_COLUMNS = ("case", "ours", "best baseline", "", "ratio", "goal", "met", "of floor", "peak")


def table(results: list[Result]) -> str:
    """Return the results as aligned text. A failed case shows FAILED, with the reasons below it."""
    groups = [[_row(result), *_bound_rows(result)] for result in results]
    rows = [_COLUMNS, *(row for group in groups for row in group)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]

    def line(row: tuple[str, ...]) -> str:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        return "  ".join(cells).rstrip()

    lines = [line(_COLUMNS)]
    for result, group in zip(results, groups, strict=True):
        lines += [line(row) for row in group]
        lines += _remarks(result)
        lines += [f"    FAILED {name}: {reason}" for name, reason in result.failures.items()]
    return "\n".join([*lines, _verdict(results)])


def _verdict(results: list[Result]) -> str:
    missed = [result.case.name for result in results if not result.goal_met]
    summary = f"goals: {len(results) - len(missed)} met, {len(missed)} missed"
    return f"{summary}: {'; '.join(missed)}" if missed else summary


def duration(seconds: float) -> str:
    """Format seconds with three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def memory(size: int | None) -> str:
    """Format bytes with three digits and a unit; return an empty text where the size is unknown."""
    if size is None:
        return ""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} B"


def _row(result: Result) -> tuple[str, ...]:
    name, goal = result.case.name, f"{result.case.goal:g}x"
    if not result.timings:
        return name, "FAILED", "", "", "", goal, "no", "", ""
    ours = _spread(result.timings["ours"])
    near, peak = result.floor_fraction, memory(result.peaks.get("ours"))
    share = "" if near is None else f"{near:.0%}"
    best, ratio = result.best_baseline, result.ratio
    if best is None or ratio is None:
        return name, ours, "FAILED", "", "", goal, "no", share, peak
    return name, ours, *_against(result, best, ratio, result.case.goal), share, peak


def _bound_rows(result: Result) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("", "", *_against(result, name, ratio, result.case.goals[name]), "", "")
        for name, ratio in result.bounds.items()
    ]
    if result.floor_goal is not None and result.floor_fraction is not None:
        met = "yes" if result.floor_fraction >= result.floor_goal else "no"
        share = f"{result.floor_fraction:.0%}"
        rows.append(("", "", "", "the floor", share, f"{result.floor_goal:.0%}", met, "", ""))
    return rows


def _remarks(result: Result) -> list[str]:
    remarks = []
    if result.share_outside is not None:
        remarks.append(f"{result.share_outside:.1%} of our time is outside {result.case.inner!r}")
    if result.evaluation_rate is not None:
        remarks.append(f"{result.evaluation_rate:.3g} evaluations/s")
    return [f"    {', '.join(remarks)}"] if remarks else []


def _against(result: Result, name: str, ratio: float, goal: float) -> tuple[str, ...]:
    met = "yes" if ratio >= goal else "no"
    return _spread(result.timings[name]), name, f"{ratio:.2f}x", f"{goal:g}x", met


def _spread(timing: Timing) -> str:
    return f"{duration(timing.median)} ({duration(timing.p20)} - {duration(timing.p80)})"
