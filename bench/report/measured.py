"""Read a file for `bench.compare`: one of `bench.run --json` or of `pytest bench/`."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

BENCH_RUN, PYTEST = "bench.run", "pytest-benchmark"
# for a normal law of deviation 1: the distance between the two percentiles, and sqrt(pi / 2), the factor by which
# the error of a median exceeds that of a mean
_PERCENTILES, _OF_MEDIAN = 1.683, 1.2533


@dataclass(frozen=True)
class Spread:
    """Seconds per call: the median and the 20th and 80th percentile over a number of rounds."""

    median: float
    p20: float
    p80: float
    rounds: int

    @property
    def error(self) -> float:
        """The standard error of the median as a fraction of it, for normally distributed rounds."""
        deviation = (self.p80 - self.p20) / _PERCENTILES
        return _OF_MEDIAN * deviation / math.sqrt(self.rounds) / self.median


@dataclass(frozen=True)
class Ratio:
    """The time of the best baseline over our time, and its standard error as a fraction of it."""

    value: float
    error: float = 0.0


@dataclass(frozen=True)
class Measured:
    """A case as it stands in a file.

    timer: the clock that measured, empty where unknown. times: of the implementations that passed their
    check. bounds: the baselines that are no rivals. ratio: as the file states it, None where there is none.
    goal_met: None where unknown. wrong: the implementations that failed their check.
    """

    name: str
    dtype: str = ""
    timer: str = ""
    times: Mapping[str, Spread] = field(default_factory=dict)
    bounds: Collection[str] = ()
    ratio: float | None = None
    goal_met: bool | None = None
    wrong: Collection[str] = ()

    @property
    def failed(self) -> bool:
        """True where our answer was wrong or no rival was left."""
        return self.ratio is None or "ours" in self.wrong

    @property
    def rivals(self) -> set[str]:
        """The baselines that were timed and are no bounds."""
        return set(self.times) - set(self.bounds) - {"ours"}

    def against(self, rivals: Collection[str]) -> Ratio:
        """Return the ratio to the fastest of some rivals, all of which were timed.

        The errors of the two times are independent, so their squares add.
        """
        ours = self.times["ours"]
        best = min((self.times[name] for name in rivals), key=lambda spread: spread.median)
        return Ratio(best.median / ours.median, math.hypot(best.error, ours.error))


@dataclass(frozen=True)
class Run:
    """A file: where it was measured, at which commit, and its cases by name.

    quick: True for a quick run, None where unknown. left_out: the cases for which the budget had no time.
    """

    kind: str
    device_name: str
    threads: int
    commit: str
    torch: str
    cases: dict[str, Measured]
    quick: bool | None = None
    left_out: Collection[str] = ()


def unfinished(content: Mapping[str, Any]) -> bool:
    """Return True where a run of `bench.run` did not come to its end.

    A run writes "complete" at its end, even where its budget left cases out. Older files, which have no "left_out"
    either, do not say and count as complete.
    """
    return content.get("complete", "left_out" not in content) is not True


def read(path: Path) -> Run:
    """Read a file of either kind.

    Raises:
        ValueError: the file is of neither kind, lacks fields that such a file has (a pytest-benchmark file of
            other tests does), or is of an unfinished run.
    """
    content = json.loads(path.read_text())
    try:
        if "cases" in content:
            if unfinished(content):
                raise ValueError(f"{path} is of a bench.run that did not come to its end")
            return _of_bench_run(content)
        if content.get("benchmarks"):
            return _of_pytest(content)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not complete: {error}") from error
    raise ValueError(f"{path} has neither the cases of bench.run nor those of pytest bench/")


def read_case(case: dict[str, Any]) -> Measured:
    """Read a case as `bench.run` writes it."""
    return Measured(
        name=case["name"],
        dtype=case.get("dtype", ""),
        timer=case.get("timer", ""),
        times={
            name: Spread(timing["median"], timing["p20"], timing["p80"], timing["rounds"])
            for name, timing in case.get("timings", {}).items()
        },
        bounds=case.get("no_rivals", case.get("goals", {})),
        ratio=case["ratio"],
        goal_met=case.get("goal_met"),
        wrong=case["failures"],
    )


def _of_bench_run(content: dict[str, Any]) -> Run:
    cases = [read_case(case) for case in content["cases"]]
    return Run(
        BENCH_RUN,
        content["device_name"],
        content["threads"],
        content.get("commit", "unknown"),
        content.get("versions", {}).get("torch", "unknown"),
        {case.name: case for case in cases},
        content.get("quick"),
        content.get("left_out", ()),
    )


def _of_pytest(content: dict[str, Any]) -> Run:
    """Read a pytest-benchmark file, in which implementations that failed their check are absent."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for test in content["benchmarks"]:
        groups.setdefault(test["group"], []).append(test)
    commit = content["commit_info"]
    about = content["benchmarks"][0]["extra_info"]
    return Run(
        PYTEST,
        about["device_name"],
        about["threads"],
        # `bench.run` writes commits in this form, and both kinds of files are compared
        commit.get("id", "unknown")[:10] + "-dirty" * bool(commit.get("dirty")),
        about["torch"],
        {name: _of_group(name, tests) for name, tests in groups.items()},
    )


def _of_group(name: str, tests: list[dict[str, Any]]) -> Measured:
    about = tests[0]["extra_info"]
    times = {
        test["extra_info"]["implementation"]: Spread(
            test["stats"]["median"],
            test["extra_info"]["p20"],
            test["extra_info"]["p80"],
            test["stats"]["rounds"],
        )
        for test in tests
    }
    case = Measured(name, about["dtype"], times=times, bounds=about["no_rivals"])
    if "ours" not in times or not case.rivals:
        return case
    ratio = case.against(case.rivals).value
    met = ratio >= about["goal"] and all(
        case.against([bound]).value >= goal
        for bound, goal in about["goals"].items()
        if bound in times
    )
    return replace(case, ratio=ratio, goal_met=met)
