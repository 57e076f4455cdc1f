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
        """Name of the fastest baseline that passed, None where nothing was timed."""
        timed = [name for name in self.timings if name != "ours"]
        return min(timed, key=lambda name: self.timings[name].median, default=None)

    @property
    def ratio(self) -> float | None:
        """Best baseline time / our time: above 1 we are faster."""
        best = self.best_baseline
        if best is None:
            return None
        return self.timings[best].median / self.timings["ours"].median

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
            "goal_met": ratio is not None and ratio >= self.case.goal,
            "bytes": self.case.bytes,
            "flops": self.case.flops,
            "floor_seconds": self.floor_seconds,
            "floor_fraction": self.floor_fraction,
        }


def table(results: list[Result]) -> str:
    """The results as aligned text; a failure shows as FAILED with its reason below its case."""
    rows = [_COLUMNS, *(_row(result) for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = []
    for i, row in enumerate(rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
        if i:
            found = results[i - 1].failures.items()
            lines += [f"    FAILED {name}: {reason}" for name, reason in found]
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
    met = "yes" if ratio >= result.case.goal else "no"
    return name, ours, _spread(result.timings[best]), best, f"{ratio:.2f}x", goal, met, share


def _spread(timing: Timing) -> str:
    return f"{duration(timing.median)} ({duration(timing.p20)} - {duration(timing.p80)})"
