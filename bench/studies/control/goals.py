"""The goals of `bench.studies.control`, judged on its numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple


class Goal(NamedTuple):
    """A bound on the mean of one number of a law, in the tables with 256 particles."""

    law: str
    number: str
    at_most: float | None = None
    at_least: float | None = None


GOALS = (
    Goal("reversal, exact traces", "tv", at_most=0.10),
    Goal("reversal, exact traces", "variance", at_most=2.0),
    Goal("reversal, 1 probe", "tv", at_most=0.12),
    Goal("reversal, 1 probe", "variance", at_most=3.0),
    Goal("reversal, calibrated probes", "tv", at_most=0.12),
    Goal("reversal, calibrated probes", "variance", at_most=3.0),
)
RIVALS = (
    Goal("scaled scores, no weights", "tv", at_least=0.6),
    Goal("FKC, target score", "tv", at_least=0.4),
)
"""The errors that wrong laws must show on the hardest task, p², since it would be no test otherwise."""
_PARTICLES = 256


def judge(comparisons: Sequence[dict[str, Any]]) -> list[tuple[str, bool]]:
    """Return every goal with whether it was met. comparisons: as `comparison.as_json` writes them."""
    judged = []
    for index, table in enumerate(comparisons):
        if table["particles"] != _PARTICLES:
            continue
        by_law = {row["law"]: row["numbers"] for row in table["rows"]}
        for goal in (*GOALS, *RIVALS) if index == 0 else GOALS:
            value = statistics.fmean(by_law[goal.law][goal.number])
            if goal.at_most is not None:
                bound, met = f"<= {goal.at_most:g}", value <= goal.at_most
            else:
                assert goal.at_least is not None
                bound, met = f">= {goal.at_least:g}", value >= goal.at_least
            judged.append((f"{table['task']}, {goal.law}: {goal.number} {value:.3g} {bound}", met))
    return judged
