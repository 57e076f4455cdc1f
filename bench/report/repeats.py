"""Put several full runs of one commit beside each other: `python -m bench.report.repeats RUN RUN RUN`.

The files come from `bench.run --json`, on one machine, with any numbers of threads. One run of a noisy machine
says little about a row near 1; a case counts as **slower** than a rival where its ratio is below 1 in more than
half of the runs with some number of threads. The command lists these, and a case that failed. `--json FOLDER`
files the ratios as FOLDER/<device>/repeats-<date>-<commit>.json, which `bench.report` shows.

Exit status: 0 no case is slower, 1 a case is, 2 bad usage: runs of several commits or devices, quick or unfinished
runs, and runs of some cases only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness import machine
from bench.report import reasons
from bench.report.measured import unfinished

Content = dict[str, Any]


def together(runs: Sequence[Content]) -> Content:
    """Return the ratios of all runs by case and number of threads.

    A case has "ratios" and "best", the best baseline, in the order of the runs, each by the number of threads; and
    "reason", the measurements of the slowest run against its rival, where the case is slower.

    Raises:
        ValueError: the runs cannot stand beside each other.
    """
    _check(runs)
    names = dict.fromkeys(case["name"] for run in runs for case in run["cases"])
    threads = sorted({run["threads"] for run in runs})
    return {
        **{key: runs[0][key] for key in ("device", "device_name", "commit", "versions")},
        "date": max(run["date"] for run in runs),
        "runs": {str(n): [run["date"] for run in runs if run["threads"] == n] for n in threads},
        "complete": True,
        "cases": [_case(name, runs, threads) for name in names],
    }


def _check(runs: Sequence[Content]) -> None:
    for run in runs:
        if run.get("quick") or run.get("only") or run.get("left_out") or unfinished(run):
            raise ValueError(
                f"the run of {run['date']} is quick, unfinished, or without some of the cases"
            )
    for key in ("commit", "device_name"):
        if len(found := dict.fromkeys(run[key] for run in runs)) > 1:
            raise ValueError(f"the runs differ in {key}: {', '.join(found)}")


def _case(name: str, runs: Sequence[Content], threads: Sequence[int]) -> Content:
    measured = [(run, case) for run in runs for case in run["cases"] if case["name"] == name]
    row: Content = {"name": name, "ratios": {}, "best": {}, "reason": ""}
    for n in threads:
        of_threads = [case for run, case in measured if run["threads"] == n]
        row["ratios"][str(n)] = [case["ratio"] for case in of_threads]
        row["best"][str(n)] = [case["best_baseline"] for case in of_threads]
    if slower(row):
        run, worst = min(measured, key=lambda pair: pair[1]["ratio"] or 0.0)
        row["reason"] = reasons.reason(worst, run)
    return row


def slower(case: Content) -> dict[str, float]:
    """Return the median ratio for each number of threads with which the case is slower; 0 where it failed."""
    found = {}
    for threads, ratios in case["ratios"].items():
        known = [ratio or 0.0 for ratio in ratios]
        if sum(ratio < 1 for ratio in known) > len(known) / 2:
            found[threads] = median(known)
    return found


def lines(content: Content) -> list[tuple[str, str, str]]:
    """Return for each slower case its name, its ratios by threads with the rivals, and the measured reason."""
    rows = []
    for case in content["cases"]:
        parts = [
            f"{n} thread{'s' * (n != '1')}: "
            + ", ".join("failed" if r is None else f"{r:.2f}" for r in case["ratios"][n])
            + f" ({', '.join(dict.fromkeys(filter(None, case['best'][n])))})"
            for n in slower(case)
        ]
        if parts:
            rows.append((case["name"], "; ".join(parts), case["reason"]))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the slower cases and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.report.repeats", description=__doc__)
    parser.add_argument("run", type=Path, nargs="+", help="of bench.run --json")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="such as bench/results")
    options = parser.parse_args(arguments)
    try:
        content = together([json.loads(path.read_text()) for path in options.run])
    except (OSError, ValueError, KeyError) as error:
        parser.error(str(error))
    found = lines(content)
    for name, ratios, _ in found:
        print(f"{name}: {ratios}")
    print(f"{len(found)} of {len(content['cases'])} cases are slower in most of the runs")
    if options.json:
        place = options.json / machine.folder(content["device"], content["device_name"])
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"repeats-{content['date'][:10]}-{content['commit']}.json"
        path.write_text(json.dumps(content, indent=1) + "\n")
        print(path)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
