"""Judge whether a change made us slower: `python -m bench.compare base.json head.json --fail-above 5%`.

The files come from `bench.run --json`, or all of them from `pytest bench/ --benchmark-json`. A side may have
several files of one commit: `base1.json,base2.json head1.json,head2.json`. The comparison uses the ratio best
baseline / ours, measured side by side in each run, so that the speed of the machine cancels. The best is taken
among the baselines that all files have, so that a new baseline makes no case slower.

A case is SLOWER where our time against the baseline's grew by more than the limit and by more than three
standard errors (from the 20th and 80th percentile and the number of rounds), from every run of the base to
every run of the head. The errors do not describe how runs differ, so measure base, head, base, head. Any other
growth above the limit is within the noise. Where a file has no spread, the limit alone decides. A case with
another timer, or one that the budget of a run left out, is listed and not judged.

Exit status: 0 no case is slower, 1 a case is slower, failed or gone, 2 bad usage, an unfinished run, or a quick
run beside a full one.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import median

from bench.report.compare_table import Row, goals, lines, markdown, unjudged
from bench.report.measured import Measured, Ratio, Run, read

_ERRORS = 3.0


def judge(base: Sequence[Measured], head: Sequence[Measured], limit: float) -> Row:
    """Return the row of a case, from all its measurements on two sides; the limit 0.05 is 5 %.

    One side may be empty, but not both. The ratios shown are the medians of the runs.
    """
    before = _stated(base)
    if not head:
        return Row(base[0].name, "GONE", lost=True, base=before)
    name, wrong = head[0].name, sorted({name for case in head for name in case.wrong})
    if any(case.failed for case in head):
        return Row(name, "FAILED", lost=True, base=before, wrong=wrong)
    timers = sorted({case.timer for case in (*base, *head) if case.timer})
    if len(timers) > 1:
        return Row(name, f"not comparable: {' and '.join(timers)}", wrong=wrong)
    sides = _comparable([case for case in base if not case.failed], head)
    if sides is None:
        return Row(name, "new", head=_stated(head), wrong=wrong)
    old, new = (median(ratio.value for ratio in side) for side in sides)
    change = old / new - 1
    pairs = [*product(*sides)]
    if all(_slower(a, b, limit) for a, b in pairs):
        verdict = "SLOWER"
    elif all(_faster(a, b, limit) for a, b in pairs):
        verdict = "faster"
    else:
        verdict = "" if abs(change) <= limit else "within the noise"
    return Row(name, verdict, verdict == "SLOWER", old, new, change, wrong)


def _slower(old: Ratio, new: Ratio, limit: float) -> bool:
    growth = old.value / new.value
    return growth - 1 > limit and math.log(growth) > _ERRORS * math.hypot(old.error, new.error)


def _faster(old: Ratio, new: Ratio, limit: float) -> bool:
    growth = old.value / new.value
    return growth - 1 < -limit and -math.log(growth) > _ERRORS * math.hypot(old.error, new.error)


def _stated(cases: Iterable[Measured]) -> float | None:
    """Return the median of the ratios that the files give."""
    ratios = [case.ratio for case in cases if case.ratio is not None]
    return median(ratios) if ratios else None


def _comparable(
    base: Sequence[Measured], head: Sequence[Measured]
) -> tuple[list[Ratio], list[Ratio]] | None:
    """Return the ratios of both sides to the best of the baselines that all have; None where there is no such
    baseline."""
    if not base:
        return None
    if not all(case.times for case in (*base, *head)):
        stated = [[Ratio(c.ratio) for c in side if c.ratio is not None] for side in (base, head)]
        return stated[0], stated[1]
    common = set.intersection(*(case.rivals for case in (*base, *head)))
    if not common:
        return None
    return [case.against(common) for case in base], [case.against(common) for case in head]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for every case of any file and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    for side in ("base", "head"):
        parser.add_argument(side, type=_files, help="a file, or several with commas between")
    parser.add_argument("--fail-above", type=_percentage, default=0.05, metavar="5%")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="where to write a table")
    options = parser.parse_args(arguments)
    try:
        base, head = ([read(path) for path in side] for side in (options.base, options.head))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    different = _different(base, head)
    if different:
        parser.error(different)
    names = dict.fromkeys(name for run in (*base, *head) for name in run.cases)
    rows = [_row(name, base, head, options.fail_above) for name in names]
    print("\n".join([*lines(rows), unjudged(rows), goals(head)]))
    if options.markdown:
        options.markdown.write_text(markdown(rows, base, head, options.fail_above))
    return int(any(row.lost for row in rows))


def _row(name: str, base: Sequence[Run], head: Sequence[Run], limit: float) -> Row:
    old, new = ([run.cases[name] for run in side if name in run.cases] for side in (base, head))
    if not new and any(name in run.left_out for run in head):
        return Row(name, "left out of the head", base=_stated(old))
    row = judge(old, new, limit)
    if not old and not row.lost and any(name in run.left_out for run in base):
        return Row(name, "left out of the base", head=row.head, wrong=row.wrong)
    return row


def _different(base: Sequence[Run], head: Sequence[Run]) -> str:
    """Return why the files cannot be compared; empty where they can."""
    for side in (base, head):
        commits = dict.fromkeys(run.commit for run in side)
        if len(commits) > 1:
            return f"files of one side are of several commits: {', '.join(commits)}"
    runs = [*base, *head]
    for key in ("kind", "device_name", "threads", "quick"):
        values = [getattr(run, key) for run in runs]
        if any(value != values[0] for value in values):
            return f"the files differ in {key}: {', '.join(dict.fromkeys(map(repr, values)))}"
    dtypes: dict[str, str] = {}
    for case in (case for run in runs for case in run.cases.values()):
        known = dtypes.setdefault(case.name, case.dtype)
        if known != case.dtype:
            return f"the files differ in the dtype of {case.name}: {known!r} and {case.dtype!r}"
    return ""


def _files(text: str) -> list[Path]:
    return [Path(name) for name in text.split(",")]


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
