"""The report of the command `edmfast sample`: the summary of a run and a table of its populations."""

from __future__ import annotations

from edmfast import smc

_MOST_ROWS = 40
"""The largest number of populations that the report lists."""


def report(result: smc.Particles, *, seconds: float) -> str:
    """Return the summary of a run, then a table with a line for each population. seconds: the time of the run."""
    populations = len(result.x)
    lines = [result.summary(), f"{seconds:.1f} s"]
    lines.append(f"{'population':>10} {'ESS at the end':>14} {'lowest':>8} {'resampled':>9} "
                 f"{'ancestors':>9} {'log Z':>12}")  # fmt: skip
    for p in range(min(populations, _MOST_ROWS)):
        lines.append(
            f"{p:10d} {float(result.ess[-1, p]):14.1f} {float(result.ess[:, p].min()):8.1f} "
            f"{int(result.resampled[:, p].sum()):9d} {int(result.unique_ancestors[p]):9d} "
            f"{float(result.log_z[p]):12.4f}"
        )
    if populations > _MOST_ROWS:
        lines.append(f"{'…':>10} and {populations - _MOST_ROWS} more")
    return "\n".join(lines)
