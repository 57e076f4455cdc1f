"""`python -m bench.compare base.json head.json --fail-above 5%`: did a change make us slower?

Both files are of `bench.run --json`, or both of `pytest bench/ --benchmark-json`. What counts is the
ratio best baseline / ours, measured side by side in each run, so that a slower or busier machine
cancels; the best is taken among the baselines that both files have, so that a new baseline makes
nobody slower. A case is SLOWER where our time against the baseline's grew by more than the limit and
the intervals of the two ratios, from the 20th and 80th percentile of the times, do not touch; a larger
growth within them is reported as within the noise. Where a file has no spread, the limit alone decides.

A case of other timers, or that the budget of a run left out, is told and not judged.

Exit status: 0 none slower, 1 a case slower, failed or gone, 2 bad usage, which includes a file of a run
that did not come to its end, and a quick one beside a full one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.compare_table import Row, goals, lines, markdown
from bench.measured import Measured, Ratio, Run, read


def judge(base: Measured | None, head: Measured | None, limit: float) -> Row:
    """What became of a case that is in one of two files at least; the limit 0.05 is 5 %."""
    if head is None:
        assert base is not None
        return Row(base.name, "GONE", lost=True, base=base.ratio)
    before = None if base is None else base.ratio
    if head.failed:
        return Row(head.name, "FAILED", lost=True, base=before, wrong=head.wrong)
    if base is not None and base.timer and head.timer and base.timer != head.timer:
        return Row(head.name, f"not comparable: {base.timer} and {head.timer}", wrong=head.wrong)
    pair = None if base is None or base.failed else _comparable(base, head)
    if pair is None:
        return Row(head.name, "new", head=head.ratio, wrong=head.wrong)
    old, new = pair
    change = old.value / new.value - 1
    if abs(change) <= limit:
        verdict = ""
    elif new.high < old.low:
        verdict = "SLOWER"
    else:
        verdict = "faster" if old.high < new.low else "within the noise"
    return Row(head.name, verdict, verdict == "SLOWER", old.value, new.value, change, head.wrong)


def _comparable(base: Measured, head: Measured) -> tuple[Ratio, Ratio] | None:
    """Both ratios to the best of the same baselines; None where no baseline is in both files."""
    if not (base.times and head.times):
        assert base.ratio is not None
        assert head.ratio is not None
        return Ratio(base.ratio, base.ratio, base.ratio), Ratio(head.ratio, head.ratio, head.ratio)
    common = base.rivals & head.rivals
    return (base.against(common), head.against(common)) if common else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line per case of either file and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("head", type=Path)
    parser.add_argument("--fail-above", type=_percentage, default=0.05, metavar="5%")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="where to write a table")
    options = parser.parse_args(arguments)
    try:
        base, head = read(options.base), read(options.head)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    different = _different(base, head)
    if different:
        parser.error(different)
    rows = [
        _row(name, base, head, options.fail_above)
        for name in dict.fromkeys([*base.cases, *head.cases])
    ]
    print("\n".join([*lines(rows), goals(head)]))
    if options.markdown:
        options.markdown.write_text(markdown(rows, base, head, options.fail_above))
    return int(any(row.lost for row in rows))


def _row(name: str, base: Run, head: Run, limit: float) -> Row:
    old, new = base.cases.get(name), head.cases.get(name)
    if new is None and name in head.left_out:
        return Row(name, "left out of the head", base=old.ratio if old else None)
    if old is None and new is not None and not new.failed and name in base.left_out:
        return Row(name, "left out of the base", head=new.ratio, wrong=new.wrong)
    return judge(old, new, limit)


def _different(base: Run, head: Run) -> str:
    """Why two files cannot be compared, empty where they can."""
    for key in ("kind", "device_name", "threads", "quick"):
        old, new = getattr(base, key), getattr(head, key)
        if old != new:
            return f"the files differ in {key}: {old!r} and {new!r}"
    for name in base.cases.keys() & head.cases.keys():
        old, new = base.cases[name].dtype, head.cases[name].dtype
        if old != new:
            return f"the files differ in the dtype of {name}: {old!r} and {new!r}"
    return ""


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
