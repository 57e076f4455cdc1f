"""The curves of `bench.studies.distillation`: errors against steps, for all students."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.studies.distillation.measures import BETWEEN, LEVELS


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the picture to path. rows: as `training.train` returns them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (energies, scores) = pyplot.subplots(1, 2, figsize=(12.5, 4.2), layout="constrained")
    for index, row in enumerate(rows):
        points = [(int(step), errors) for step, errors in row["curve"].items()]
        points.append((row["steps"], row["end"]))
        steps = [step for step, _ in points]
        style: dict[str, Any] = {"color": f"C{index}", "marker": "o", "markersize": 3}
        style["linestyle"] = "--" if row["teacher"] != "exact" else "-"
        scores.plot(
            steps, [_mean(errors["score"]) for _, errors in points], label=row["name"], **style
        )
        if "between" in row["end"]:
            values = [max(errors["between"]) for _, errors in points]
            energies.plot(steps, values, label=row["name"], **style)
    energies.axhline(BETWEEN, color="grey", linewidth=0.8)
    energies.set(
        yscale="log",
        xlabel="steps",
        ylabel="nats",
        title=f"error of the energy between components, worst of σ = {LEVELS[0]:g} … {LEVELS[-1]:g}",
    )
    scores.set(
        yscale="log",
        xlabel="steps",
        ylabel="error / σ",
        title="error of the denoised states, mean over the same levels",
    )
    for axes in (energies, scores):
        axes.grid(alpha=0.3, which="both")
    # inside of the axes it would hide curves
    figure.legend(
        *scores.get_legend_handles_labels(),
        loc="outside right upper",
        fontsize="small",
        title="solid: exact teacher\ndashed: data alone",
        title_fontsize="small",
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
