"""The result of a case, as a table row and as JSON."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.registry import Case
from bench.timing import Timing

_COLUMNS = ("case", "ours", "best baseline", "", "ratio", "goal", "met", "of floor")


@dataclass(frozen=True)
class Result:
    """Timings of the implementations that passed the gate, and why the others failed."""

    case: Case
    failures: dict[str, str]
    timings: dict[str, Timing] = field(default_factory=dict)
    floor_seconds: float = 0.0

    @property
    def best_baseline(self) -> str | None:
        """Name of the fastest baseline that passed and has no goal of its own, None without one."""
        timed = [name for name in self.timings if name not in ("ours", *self.case.goals)]
        return min(timed, key=lambda name: self.timings[name].median, default=None)

    @property
    def ratio(self) -> float | None:
        """Best baseline time / our time: above 1 we are faster."""
        best = self.best_baseline
        return None if best is None else self._ratio_to(best)

    @property
    def bounds(self) -> dict[str, float]:
        """Time / our time of the baselines with a goal of their own that passed."""
        return {name: self._ratio_to(name) for name in self.case.goals if name in self.timings}

    @property
    def goal_met(self) -> bool:
        """Whether the ratio and every bound reach their goals."""
        enough = all(ratio >= self.case.goals[name] for name, ratio in self.bounds.items())
        return self.ratio is not None and self.ratio >= self.case.goal and enough

    def _ratio_to(self, name: str) -> float:
        return self.timings[name].median / self.timings["ours"].median

    @property
    def share_outside(self) -> float | None:
        """Of our time, what is not spent in the part of the job that the case names."""
        inner = self.case.inner
        return 1 - self._ratio_to(inner) if inner in self.timings else None

    @property
    def evaluation_rate(self) -> float | None:
        """Evaluations of a network for one sample per second, of ours."""
        if not (self.timings and self.case.evaluations):
            return None
        return self.case.evaluations / self.timings["ours"].median

    @property
    def floor_fraction(self) -> float | None:
        """Least possible time / our time."""
        return self.floor_seconds / self.timings["ours"].median if self.timings else None

    def to_json(self) -> dict[str, Any]:
        """Plain data: everything of the table and all timings in seconds."""
        ratio = self.ratio
        return {
            "name": self.case.name,
            "shape": list(self.case.shape),
            "dtype": str(self.case.dtype),
            "failures": self.failures,
            "timings": {name: asdict(timing) for name, timing in self.timings.items()},
            "best_baseline": self.best_baseline,
            "ratio": ratio,
            "goal": self.case.goal,
            "bounds": self.bounds,
            "goals": dict(self.case.goals),
            "goal_met": self.goal_met,
            "bytes": self.case.bytes,
            "flops": self.case.flops,
            "share_outside": self.share_outside,
            "evaluation_rate": self.evaluation_rate,
            "floor_seconds": self.floor_seconds,
            "floor_fraction": self.floor_fraction,
        }


def table(results: list[Result]) -> str:
    """The results as aligned text; a failure shows as FAILED with its reason below its case."""
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
    return "\n".join(lines)


def write_json(path: Path, header: dict[str, Any], results: list[Result]) -> None:
    """Writes header and results; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**header, "cases": [r.to_json() for r in results]}, indent=1) + "\n"
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _row(result: Result) -> tuple[str, ...]:
    name, goal = result.case.name, f"{result.case.goal:g}x"
    if not result.timings:
        return name, "FAILED", "", "", "", goal, "no", ""
    ours = _spread(result.timings["ours"])
    share = f"{result.floor_fraction:.0%}"
    best, ratio = result.best_baseline, result.ratio
    if best is None or ratio is None:
        return name, ours, "FAILED", "", "", goal, "no", share
    return name, ours, *_against(result, best, ratio, result.case.goal), share


def _bound_rows(result: Result) -> list[tuple[str, ...]]:
    return [
        ("", "", *_against(result, name, ratio, result.case.goals[name]), "")
        for name, ratio in result.bounds.items()
    ]


def _remarks(result: Result) -> list[str]:
    told = []
    if result.share_outside is not None:
        told.append(f"{result.share_outside:.1%} of our time is outside {result.case.inner!r}")
    if result.evaluation_rate is not None:
        told.append(f"{result.evaluation_rate:.3g} evaluations/s")
    return [f"    {', '.join(told)}"] if told else []


def _against(result: Result, name: str, ratio: float, goal: float) -> tuple[str, ...]:
    met = "yes" if ratio >= goal else "no"
    return _spread(result.timings[name]), name, f"{ratio:.2f}x", f"{goal:g}x", met


def _spread(timing: Timing) -> str:
    return f"{duration(timing.median)} ({duration(timing.p20)} - {duration(timing.p80)})"
