"""`python -m bench.compare base.json head.json --fail-above 5%`: did a change make us slower?

Compares the ratios best baseline / ours, each measured side by side in its own run, so that a
slower or busier machine cancels. Exit status: 0 none slower, 1 a case slower, failed or gone,
2 bad usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def slowdown(base: dict[str, Any] | None, head: dict[str, Any] | None) -> float | None:
    """Growth of our time against the baseline's: 0.1 is 10 %; None where either has no ratio."""
    if base is None or head is None or base["ratio"] is None or head["ratio"] is None:
        return None
    return base["ratio"] / head["ratio"] - 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line per case of either file and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("head", type=Path)
    parser.add_argument("--fail-above", type=_percentage, default=0.05, metavar="5%")
    options = parser.parse_args(arguments)
    base, head = (json.loads(path.read_text()) for path in (options.base, options.head))
    for key in ("device_name", "threads"):
        if base[key] != head[key]:
            parser.error(f"the files differ in {key}: {base[key]!r} and {head[key]!r}")
    before, after = ({case["name"]: case for case in run["cases"]} for run in (base, head))
    bad = 0
    for name in dict.fromkeys([*before, *after]):
        change = slowdown(before.get(name), after.get(name))
        verdict, lost = _verdict(name, before, after, change, options.fail_above)
        bad += lost
        print(f"{name:40}  {verdict}")
    return int(bad > 0)


def _verdict(
    name: str,
    before: dict[str, Any],
    after: dict[str, Any],
    change: float | None,
    limit: float,
) -> tuple[str, bool]:
    if name not in after:
        return "GONE", True
    if after[name]["ratio"] is None or "ours" in after[name]["failures"]:
        return "FAILED", True
    if change is None:
        return f"new, {after[name]['ratio']:.2f}x", False
    ratios = f"{before[name]['ratio']:.2f}x -> {after[name]['ratio']:.2f}x (time {change:+.1%})"
    return (f"{ratios}  SLOWER", True) if change > limit else (ratios, False)


def _percentage(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"expected a percentage such as 5%, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
