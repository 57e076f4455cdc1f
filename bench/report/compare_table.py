"""Format the rows of `bench.compare`, as lines for a terminal and as a table for a pull request."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bench.report.measured import Run


@dataclass(frozen=True)
class Row:
    """One case: the ratios best baseline / ours, and the change of our time against the baseline's.

    lost: True where the case fails the comparison. change: 0.1 is 10 % slower. wrong: the implementations of the
    head that failed their check.
    """

    name: str
    verdict: str
    lost: bool = False
    base: float | None = None
    head: float | None = None
    change: float | None = None
    wrong: Collection[str] = ()


def lines(rows: Sequence[Row]) -> list[str]:
    """Return a line per case, in the order of the rows."""
    return [f"{row.name:40}  {_comparison(row)}" for row in rows]


def unjudged(rows: Sequence[Row]) -> str:
    """Count the cases that were not compared, though both sides have or should have them."""
    count = sum(row.verdict.startswith(("left out", "not comparable")) for row in rows)
    return f"{count} of {len(rows)} cases not compared"


def goals(head: Sequence[Run]) -> str:
    """Count the goals that the head reaches in every one of its runs."""
    met: dict[str, bool] = {}
    for case in (case for run in head for case in run.cases.values()):
        if case.goal_met is not None:
            met[case.name] = met.get(case.name, True) and case.goal_met
    known = met.values()
    return f"goals of the head: {sum(known)} met, {len(known) - sum(known)} missed"


def markdown(rows: Sequence[Row], base: Sequence[Run], head: Sequence[Run], limit: float) -> str:
    """Return a summary and the table, with lost and slower cases first."""
    ordered = sorted(rows, key=lambda row: (not row.lost, -(row.change or 0.0)))
    lost = sum(row.lost for row in rows)
    noisy = sum(row.verdict == "within the noise" for row in rows)
    summary = f"**{lost} of {len(rows)} slower, failed or gone**" if lost else "**None slower**"
    first, old = head[0], base[0]
    table = [
        "| case | base | head | change of time | verdict |",
        "|:--|--:|--:|--:|:--|",
        *(_cells(row) for row in ordered),
    ]
    return "\n".join(
        [
            f"{summary} (limit {100 * limit:g}%), {noisy} within the noise, {unjudged(rows)}; {goals(head)}.",
            "",
            f"{first.device_name}, {first.threads} thread(s), by {first.kind}; base `{old.commit}` (torch "
            f"{old.torch}, {len(base)} run(s)), head `{first.commit}` (torch {first.torch}, {len(head)} "
            "run(s)). Ratios: best baseline / ours.",
            "",
            *table,
            "",
        ]
    )


def _comparison(row: Row) -> str:
    """Return the ratios and the verdict of a row in words."""
    wrong = f"  (wrong: {', '.join(row.wrong)})" if row.wrong else ""
    if row.head is None:
        return row.verdict + wrong
    if row.base is None or row.change is None:
        return f"{row.verdict}, {row.head:.2f}x{wrong}"
    ratios = f"{row.base:.2f}x -> {row.head:.2f}x (time {row.change:+.1%})"
    return f"{ratios}  {row.verdict}".rstrip() + wrong


def _cells(row: Row) -> str:
    ratios = ["" if ratio is None else f"{ratio:.2f}x" for ratio in (row.base, row.head)]
    change = "" if row.change is None else f"{row.change:+.1%}"
    verdict = f"**{row.verdict}**" if row.lost else row.verdict
    if row.wrong:
        verdict = f"{verdict} (wrong: {', '.join(row.wrong)})".strip()
    # a bar in a name would end the cell
    return " | ".join(["", row.name.replace("|", "\\|"), *ratios, change, verdict, ""]).strip()
