"""Draw the distances between ODE, SDE and data against the weight of the Fokker–Planck loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NAMES = {"ode_sde": "ODE to SDE", "ode_data": "ODE to data", "sde_data": "SDE to data"}


def draw(facts: dict[str, Any], path: Path) -> None:
    """Write the picture: one panel for each way of training, a point for each student, lines through the means."""
    # only pictures need matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    exact = [row for row in facts["rows"] if row["mode"] == "exact"]
    modes = [m for m in dict.fromkeys(row["mode"] for row in facts["rows"]) if m != "exact"]
    figure = Figure(figsize=(5 * len(modes), 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(modes), squeeze=False, sharey=True)[0]
    floor = sum(row["floor"] for row in exact) / len(exact)
    gap = sum(row["ode_sde"] for row in exact) / len(exact)
    for panel, mode in zip(panels, modes, strict=True):
        rows = [row for row in facts["rows"] if row["mode"] == mode]
        weights = sorted({row["weight"] for row in rows})
        for colour, (name, label) in enumerate(NAMES.items()):
            points = [[r[name] for r in rows if r["weight"] == w] for w in weights]
            places = range(len(weights))
            panel.plot(places, [sum(p) / len(p) for p in points], color=f"C{colour}", label=label)
            for place, values in zip(places, points, strict=True):
                panel.scatter([place] * len(values), values, color=f"C{colour}", s=12)
        panel.axhline(gap, color="grey", linestyle="--", label="ODE to SDE, exact denoiser")
        panel.axhline(floor, color="grey", linestyle=":", label="two sets of data")
        panel.set_xticks(range(len(weights)), [f"{w:g}" for w in weights])
        panel.set_xlabel("fokker_planck_weight")
        panel.set_title(mode)
    panels[0].set_ylabel("sliced W2")
    panels[0].set_ylim(bottom=0)
    panels[-1].legend()
    figure.savefig(path, dpi=150)
