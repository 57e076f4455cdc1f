"""The curves of `bench.studies.distillation`: errors against steps, for all students."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.studies.distillation.measures import BETWEEN, LEVELS


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the picture to path. rows: as `training.train` returns them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, (energies, scores) = pyplot.subplots(1, 2, figsize=(12.5, 4.2), layout="constrained")
    for index, name in enumerate(dict.fromkeys(row["name"] for row in rows)):
        same = [row for row in rows if row["name"] == name]
        style: dict[str, Any] = {"color": f"C{index}" if index < 10 else "black", "markersize": 3}
        style["linestyle"] = "-" if same[0]["teacher"] == "exact" else "--"
        style["marker"] = "^" if "time_score_weight" in same[0]["settings"] else "o"
        _curve(scores, same, lambda errors: _mean(errors["score"]), name, style)
        if "between" in same[0]["end"]:
            _curve(energies, same, lambda errors: max(errors["between"]), name, style)
    energies.axhline(BETWEEN, color="grey", linewidth=0.8)
    energies.annotate(
        f"goal: {BETWEEN:g}", (0, BETWEEN), xytext=(2, 3), textcoords="offset points", color="grey"
    )
    energies.set(
        yscale="log",
        xlabel="steps",
        ylabel="nats",
        title=f"energy: error between modes, worst of σ = {LEVELS[0]:g} … {LEVELS[-1]:g}",
    )
    scores.set(
        yscale="log",
        xlabel="steps",
        ylabel="error / σ",
        title="denoised states: error, mean over the same levels",
    )
    ticks = ((energies, (0.2, 0.4, 0.6, 1, 2, 4)), (scores, (0.1, 0.12, 0.15, 0.2)))
    for axes, values in ticks:
        axes.set_yticks(values, labels=[f"{value:g}" for value in values])
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.grid(alpha=0.3)
    # inside of the axes it would hide curves
    figure.legend(
        *scores.get_legend_handles_labels(),
        loc="outside right upper",
        fontsize="small",
        title="solid: exact teacher\ndashed: data alone\nbands: seeds",
        title_fontsize="small",
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _curve(
    axes: Any,
    rows: Sequence[dict[str, Any]],
    measure: Callable[[dict[str, Any]], float],
    name: str,
    style: dict[str, Any],
) -> None:
    """Draw the mean of a measure over the seeds of a student against steps, and the range of the seeds."""
    steps = [*map(int, rows[0]["curve"]), rows[0]["steps"]]
    curves = [[*map(measure, [*row["curve"].values(), row["end"]])] for row in rows]
    points = [*zip(*curves, strict=True)]
    axes.plot(steps, [sum(point) / len(point) for point in points], label=name, **style)
    axes.fill_between(
        steps, [*map(min, points)], [*map(max, points)], color=style["color"], alpha=0.15
    )


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
