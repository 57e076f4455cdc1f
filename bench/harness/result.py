"""The result of a case: its ratios, its goals, and the same as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.harness.anatomy import Anatomy
from bench.harness.registry import Case
from bench.harness.timing import Timing
from edmfast._internal.atomic_write import replacing


@dataclass(frozen=True)
class Result:
    """Timings of the implementations that passed their check, and the reasons why the others failed.

    peaks: the largest number of bytes that one call holds beyond its inputs, None where it is unknown.
    anatomy: the parts of one of our calls. timer: the clock in use: "clock" on the CPU, "events" on a GPU, or
    "graphs" for replayed CUDA graphs.
    """

    case: Case
    failures: dict[str, str]
    timings: dict[str, Timing] = field(default_factory=dict)
    floor_seconds: float = 0.0
    device: str = "cpu"
    timer: str = "clock"
    peaks: dict[str, int | None] = field(default_factory=dict)
    anatomy: Anatomy | None = None

    @property
    def best_baseline(self) -> str | None:
        """The name of the fastest rival that passed its check, None without one."""
        # a bound is no rival, so it cannot be the best baseline
        timed = [name for name in self.timings if name not in ("ours", *self.case.bounds)]
        return min(timed, key=lambda name: self.timings[name].median, default=None)

    @property
    def ratio(self) -> float | None:
        """The time of the best baseline over our time: above 1 we are faster."""
        best = self.best_baseline
        return None if best is None else self._ratio_to(best)

    @property
    def bounds(self) -> dict[str, float]:
        """The time over ours of each baseline that has a goal of its own and passed its check."""
        return {name: self._ratio_to(name) for name in self.case.goals if name in self.timings}

    @property
    def memory_ratios(self) -> dict[str, float]:
        """The peak memory over ours of each baseline with a memory goal, where both are known."""
        ours = self.peaks.get("ours")
        peaks = {name: self.peaks.get(name) for name in self.case.memory_goals}
        return {name: peak / ours for name, peak in peaks.items() if peak and ours}

    @property
    def goal_met(self) -> bool:
        """True where the ratio, and every baseline with a goal of time or memory, reach it.

        A baseline that failed its check reaches nothing. A peak that the machine cannot tell misses no goal.
        """
        reached, memory = self.bounds, self.memory_ratios
        small = all(ratio >= self.case.memory_goals[name] for name, ratio in memory.items())
        enough = all(reached.get(name, 0.0) >= goal for name, goal in self.case.goals.items())
        near = self.floor_goal is None or (self.floor_fraction or 0) >= self.floor_goal
        return self.ratio is not None and self.ratio >= self.case.goal and enough and near and small

    @property
    def floor_goal(self) -> float | None:
        """The wanted fraction of the least possible time on this device, None without such a goal."""
        return self.case.floor_goals.get(self.device)

    def _ratio_to(self, name: str) -> float:
        return self.timings[name].median / self.timings["ours"].median

    @property
    def share_outside(self) -> float | None:
        """The share of our time that is spent outside of the part that the case names as `inner`."""
        inner = self.case.inner
        return 1 - self._ratio_to(inner) if inner in self.timings else None

    @property
    def evaluation_rate(self) -> float | None:
        """Network evaluations per second and sample in our implementation."""
        if not (self.timings and self.case.evaluations):
            return None
        return self.case.evaluations / self.timings["ours"].median

    @property
    def floor_fraction(self) -> float | None:
        """The least possible time over our time, None for a job without a floor."""
        if not (self.timings and self.floor_seconds):
            return None
        return self.floor_seconds / self.timings["ours"].median

    def to_json(self) -> dict[str, Any]:
        """Return everything in the table and all timings in seconds as plain data."""
        ratio = self.ratio
        return {
            "name": self.case.name,
            "shape": list(self.case.shape),
            "dtype": str(self.case.dtype),
            "direction": self.case.direction,
            "timer": self.timer,
            "failures": self.failures,
            "timings": {name: asdict(timing) for name, timing in self.timings.items()},
            "best_baseline": self.best_baseline,
            "ratio": ratio,
            "goal": self.case.goal,
            "bounds": self.bounds,
            "goals": dict(self.case.goals),
            "memory_goals": dict(self.case.memory_goals),
            "memory_ratios": self.memory_ratios,
            "no_rivals": list(self.case.bounds),
            "floor_goal": self.floor_goal,
            "goal_met": self.goal_met,
            "bytes": self.case.bytes,
            "flops": self.case.flops,
            "share_outside": self.share_outside,
            "inner": self.case.inner,
            "evaluations": self.case.evaluations,
            "evaluation_rate": self.evaluation_rate,
            "floor_seconds": self.floor_seconds,
            "floor_fraction": self.floor_fraction,
            "peak_bytes": self.peaks,
            "anatomy": self.anatomy.to_json() if self.anatomy else None,
        }


def write_json(path: Path, header: dict[str, Any], results: list[Result]) -> None:
    """Writes header and results; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**header, "cases": [r.to_json() for r in results]}, indent=1) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(content)
