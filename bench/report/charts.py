"""Draw charts of results as PNG: ratios as bars, the roofline, scaling as lines. No display is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_MET, _MISSED, _GOAL = "#2a78b5", "#d1495b", "#333333"
_COLORS = (_MET, "#e08a1e", "#5a9e4b", "#8c5aa8")


def ratios(run: dict[str, Any], path: Path) -> None:
    """Draw the ratio best baseline / ours of every case, on a logarithmic axis, with its goal as a mark."""
    cases = [case for case in run["cases"] if case["ratio"] is not None][::-1]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        places = np.arange(len(cases))
        values = [case["ratio"] for case in cases]
        colors = [_MET if case["goal_met"] else _MISSED for case in cases]
        # bars of logarithms start at 1x, and on a logarithmic axis bars could not start at 0
        axes.barh(places, np.log10(values), color=colors, height=0.7)
        wanted = np.log10([case["goal"] for case in cases])
        axes.plot(wanted, places, "|", color=_GOAL, markersize=9, label="goal")
        ticks = [0.25, 0.5, 1, 2, 4, 8, 16, 32]
        low, high = min([*values, 0.5]), max([*values, 2])
        shown = [tick for tick in ticks if low / 2 <= tick <= 2 * high]
        axes.set_xticks(np.log10(shown), [f"{tick:g}x" for tick in shown])
        axes.set_yticks(places, [case["name"] for case in cases], fontsize=7)
        axes.set_ylim(-0.7, len(cases) - 0.3)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.grid(axis="x", alpha=0.3)
        axes.set_xlabel("best baseline time / ours (right of 1x we are faster)")
        figure.suptitle(f"{run['device_name']}: blue meets its goals, red misses one", fontsize=10)
        axes.legend(loc="upper right", fontsize=8)

    _save(draw, path, (8, 1.4 + 0.17 * len(cases)))


def roofline(run: dict[str, Any], path: Path) -> None:
    """Draw memory-bound cases against the copy bandwidth (left), and cases with flops against both roofs
    (right)."""
    bandwidth = run["floors"]["bandwidth"]
    rates = run["floors"]["gemm"]
    timed = [case for case in run["cases"] if case["timings"]]
    moving = [case for case in timed if case["bytes"] and not case["flops"]]
    both = [case for case in timed if case["bytes"] and case["flops"]]

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        sizes = [case["bytes"] for case in moving]
        achieved = [case["bytes"] / case["timings"]["ours"]["median"] for case in moving]
        left.loglog(sizes, achieved, "o", color=_MET, markersize=4)
        left.axhline(bandwidth, color=_GOAL, linewidth=1)
        left.annotate("copy bandwidth", (min(sizes, default=1), bandwidth * 1.1), fontsize=8)
        left.set_xlabel("least bytes of a call")
        left.set_ylabel("bytes / s")
        left.set_title("operators without products", fontsize=9)
        for dtype, color in zip(rates, _COLORS, strict=False):
            chosen = [case for case in both if case["dtype"] == dtype]
            if not chosen:
                continue
            intensity = [case["flops"] / case["bytes"] for case in chosen]
            reached = [case["flops"] / case["timings"]["ours"]["median"] for case in chosen]
            label = dtype.removeprefix("torch.")
            right.loglog(intensity, reached, "o", color=color, markersize=4, label=label)
            knee = rates[dtype] / bandwidth
            span = np.geomspace(min([*intensity, knee]) / 8, max(intensity) * 4, 100)
            right.loglog(span, np.minimum(span * bandwidth, rates[dtype]), color=color, linewidth=1)
        right.set_xlabel("flop / byte")
        right.set_ylabel("flop / s")
        right.set_title("cases with products, and their roof", fontsize=9)
        if both:
            right.legend(fontsize=8)
        for axes in (left, right):
            axes.grid(alpha=0.3)
        figure.suptitle(
            f"{run['device_name']}: above a roof, data sat in a cache or was only read", fontsize=10
        )

    _save(draw, path, (9, 4))


def scaling(content: dict[str, Any], path: Path) -> None:
    """Draw seconds against the size of every axis, one panel each, with the fitted exponents."""
    axes_of = content["axes"]
    columns = 3
    rows = -(-len(axes_of) // columns)

    def draw(figure: Any) -> None:
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel, axis in zip(panels, axes_of, strict=False):
            panel.loglog(axis["sizes"], axis["seconds"], "o-", color=_MET, markersize=3)
            panel.fill_between(axis["sizes"], axis["p20"], axis["p80"], color=_MET, alpha=0.2)
            title = axis["name"]
            if axis.get("exponent") is not None:
                title += f"\nexponent {axis['exponent']:.2f} ± {axis['exponent_error']:.2f}"
            panel.set_title(title, fontsize=8)
            panel.set_xlabel(axis["unit"], fontsize=8)
            panel.set_ylabel("s", fontsize=8)
            panel.tick_params(labelsize=7, which="both")
            if (
                axis["sizes"][-1] < 100 * axis["sizes"][0]
            ):  # the axis is too short for powers of ten
                panel.set_xticks(axis["sizes"], [f"{size:g}" for size in axis["sizes"]])
            panel.tick_params(axis="x", which="minor", labelbottom=False)
            panel.grid(alpha=0.3)
        for panel in panels[len(axes_of) :]:
            panel.set_visible(False)
        figure.suptitle(content["device_name"], fontsize=10)

    _save(draw, path, (9, 2.6 * rows + 0.4))


def _save(draw: Callable[[Any], None], path: Path, size: tuple[float, float]) -> None:
    # only charts need matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    # without date and version in the file, the same numbers give the same bytes
    figure.savefig(path, dpi=90, metadata={"Software": None})
