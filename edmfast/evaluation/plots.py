"""The pictures of an evaluation: distances against model calls, diagnostics by noise level, and likelihoods."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from edmfast.evaluation.by_level import NASYM_BY, NASYM_ERROR
from edmfast.evaluation.tables import Table
from edmfast.plotting import new_figure

_DISTANCES = (
    ("FD", "FD ±", "Fréchet distance"),
    ("sliced W2", None, "sliced Wasserstein-2 distance"),
    ("energy distance", None, "energy distance"),
)
_ROUNDING = 1e-8
"""Diagnostics below this number are rounding, and are drawn at it."""
_TITLES = {
    "NAsym": "NAsym (0: a gradient, 1: a rotation)",
    "circulation": "circulation (0: a gradient, at most 1)",
    "Fokker-Planck sd": "Fokker-Planck residual, sd in nats",
    "self-check sd": "self-check residual, sd in nats",
    "error on p": "energy error on p, sd in nats",
    "error on p²": "energy error on p², sd in nats",
    "error between": "energy error between modes, nats",
}
_MARKERS = "osD^v<>PX*"


def distance_figure(table: Table) -> Any:
    """Return a figure with a panel for each distance against the number of model calls, with the noise floor."""
    panels = [panel for panel in _DISTANCES if panel[0] in table.columns]
    figure = new_figure(4.6 * len(panels), 4.0)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    groups = _groups(table.rows, ("model", "solver"))
    for axis, (column, error, label) in zip(axes, panels, strict=True):
        for number, (name, rows) in enumerate(groups.items()):
            values = [_number(row.get(column)) for row in rows]
            if rows[0].get("NFE") is None:
                # the noise floor has no model calls, and the logarithm no place for 0
                if values[0] > 0:
                    axis.axhline(values[0], color="0.5", ls=":", label="data against data")
                continue
            calls = [_number(row["NFE"]) for row in rows]
            bars = None if error is None else [_number(row.get(error)) for row in rows]
            marker = _MARKERS[number % len(_MARKERS)]
            style: dict[str, Any] = {"marker": marker, "ms": 5, "lw": 1.2, "label": ", ".join(name)}
            axis.errorbar(calls, values, yerr=bars, capsize=3, **style)
        axis.set(xlabel="model calls for each sample (NFE)", ylabel=label, xscale="log")
        _label_calls(axis, table)
        # an unbiased distance of data from data may be negative
        if _all_positive([row for row in table.rows if row.get("NFE") is not None], column):
            axis.set_yscale("log")
        axis.grid(alpha=0.3, which="both", lw=0.5)
    axes[0].legend(fontsize=8)
    return figure


def level_figure(table: Table) -> Any:
    """Return a figure with a panel for each diagnostic against the noise level."""
    others = ("model", "sigma", NASYM_BY, NASYM_ERROR)
    panels = [name for name in table.columns if name not in others and _is_drawn(table, name)]
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(3.6 * columns, 3.1 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    groups = _groups(table.rows, ("model",))
    for axis, column in zip(axes, panels, strict=False):
        for number, ((name,), chosen) in enumerate(groups.items()):
            points = [(_number(row["sigma"]), _number(row.get(column))) for row in chosen]
            positive = _all_positive(table.rows, column)
            least = _ROUNDING if positive else -math.inf
            shown = [(s, max(value, least)) for s, value in points if math.isfinite(value)]
            if shown:
                axis.plot(
                    *zip(*shown, strict=True),
                    marker=_MARKERS[number],
                    ms=4,
                    lw=1.2,
                    color=f"C{number}",
                    label=name,
                )
        axis.set(xscale="log", title=_TITLES.get(column, column))
        axis.title.set_fontsize(9)
        if _all_positive(table.rows, column):
            axis.set_yscale("log")
        axis.invert_xaxis()  # a run goes from large to small sigma
        axis.grid(alpha=0.3, lw=0.5)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    axes[0].legend(fontsize=8)
    figure.supxlabel(
        f"noise level σ; all panels: lower is better, values below {_ROUNDING:g} are rounding",
        fontsize=9,
    )
    return figure


def likelihood_figure(table: Table) -> Any:
    """Return a figure with the mean log-density of every model and way, and its standard error."""
    rows = list(table.rows)
    truth = [row for row in rows if row["way"] == "truth"]
    rows = [row for row in rows if row["way"] != "truth"]
    relative = "minus truth" in table.columns and bool(truth)
    column = "minus truth" if relative else "nats"
    error = f"{column} ±"
    figure = new_figure(5.6, 0.9 + 0.42 * len(rows))
    axis = figure.subplots()
    models = list(dict.fromkeys(row["model"] for row in rows))
    for place, row in enumerate(rows):
        color = f"C{models.index(row['model'])}"
        spread = _number(row.get(error))
        axis.errorbar(_number(row[column]), place, xerr=spread, marker="o", color=color, capsize=3)
    axis.set_yticks(range(len(rows)), [f"{row['model']}, {row['way']}" for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    if relative:
        axis.axvline(0, color="0.5", ls=":")
    label = "mean log-density minus the truth, nats" if relative else "mean log-density, nats"
    axis.set(xlabel=f"{label} (± 1 standard error)")
    axis.grid(alpha=0.3, lw=0.5, axis="x")
    return figure


def _groups(rows: Iterable[dict[str, Any]], keys: tuple[str, ...]) -> dict[tuple[str, ...], Any]:
    """Return the rows by the values of some columns, in order."""
    groups: dict[tuple[str, ...], Any] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[key]) for key in keys), []).append(row)
    return groups


def _number(cell: Any) -> float:
    return float(cell) if isinstance(cell, (int, float)) else math.nan


def _is_drawn(table: Table, column: str) -> bool:
    return any(math.isfinite(_number(row.get(column))) for row in table.rows)


def _all_positive(rows: Iterable[dict[str, Any]], column: str) -> bool:
    numbers = [_number(row.get(column)) for row in rows]
    shown = [number for number in numbers if math.isfinite(number)]
    return bool(shown) and min(shown) > 0


def _label_calls(axis: Any, table: Table) -> None:
    """Write the numbers of model calls as ticks, in place of powers of ten."""
    cells = [row.get("NFE") for row in table.rows]
    calls = sorted({cell for cell in cells if isinstance(cell, int)})
    # the larger of two numbers whose labels would overlap has none
    named: list[int] = []
    for number in calls:
        if not named or number > 1.15 * named[-1]:
            named.append(number)
    axis.set_xticks(named, [str(number) for number in named])
    axis.set_xticks([], minor=True)
