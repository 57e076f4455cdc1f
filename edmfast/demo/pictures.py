"""Save figures of the demonstration, draw images of digits, and compare laws with the exact answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.atomic_write import check_output, replacing
from edmfast._internal.file_kinds import PICTURE
from edmfast.analytic import MixtureOfGaussians
from edmfast.demo.known_answer import systematic
from edmfast.plotting import new_figure

EXACT = "black"
_COLUMNS = 10
"""Images in a row of a mosaic."""
_RANGE_OF_DENSITIES = (-40.0, 30.0)
"""The log-densities that a histogram shows, in nats. Others count at its ends."""


def save(figure: Any, path: Path) -> Path:
    """Write a PNG file, whole or not at all, and return its path. A picture that is already there is replaced."""
    with replacing(check_output(path, PICTURE, overwrite=None)) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    return path


def show_digits(axis: Any, images: torch.Tensor, columns: int, title: str = "") -> None:
    """Draw images [n, 1, 8, 8] in [-1, 1] as a mosaic, row by row, dark on light."""
    # a mosaic has no incomplete row
    images = images[: len(images) // columns * columns].clamp(-1, 1)
    # a frame in the grey of the background keeps neighbours apart
    framed = torch.nn.functional.pad(images[:, 0], (1, 1, 1, 1), value=-1.0)
    rows = framed.reshape(-1, columns, 10, 10).transpose(1, 2).reshape(-1, columns * 10)
    axis.imshow(rows.numpy(), cmap="gray_r", vmin=-1, vmax=1, interpolation="nearest")
    axis.set_axis_off()
    # the layout would take free space above a mosaic for the room of its title
    axis.set_anchor("N")
    axis.set_title(title, fontsize=9)


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """One column of a comparison: images above, and the masses of the components below."""

    name: str
    colour: str
    images: Tensor
    """Images [n, 1, 8, 8], with n a multiple of 10."""
    masses: Tensor
    """The masses of the components, [K]."""
    wrong_mass: float | None = None
    """The share of the mass in wrong components, which is the total variation; None for the exact answer."""
    row_names: Sequence[str] = ()
    """Names beside the images, each for an equal share of the rows."""


@dataclasses.dataclass(frozen=True)
class Groups:
    """The names of groups of neighbouring components, such as the classes, and their size."""

    names: Sequence[str]
    size: int
    """Components in each group."""
    label: str
    """The meaning of a group, below the bars."""


def draw_comparison(
    title: str,
    panels: Sequence[Panel],
    exact: Tensor,
    groups: Groups,
    path: Path,
    *,
    noise: float,
) -> None:
    """Draw panels side by side, of which the first is the exact answer, and save the picture.

    exact: the exact masses [K], which are black marks in every panel. noise: the share of the mass in wrong
    components that as many exact draws as particles have.
    """
    rows = len(panels[0].images) // _COLUMNS
    figure = new_figure(3.3 * len(panels), 0.33 * rows + 3.0)
    figure.suptitle(title, fontsize=17)
    grid = figure.subplots(2, len(panels), height_ratios=[rows, 4.5], squeeze=False)
    highest = 1.15 * max(float(exact.max()), *(float(panel.masses.max()) for panel in panels))
    for column, panel in enumerate(panels):
        draw_panel(grid[:, column], panel, exact, groups)
        if panel.wrong_mass is None:
            # an empty line keeps the names of all panels on one level
            _set_heading(grid[0, column], panel.name, panel.colour, [""])
        grid[1, column].set_ylim(0, highest)
        if column:
            grid[1, column].set_yticklabels([])
    grid[1, 0].set_ylabel("mass", fontsize=12)
    _add_key(figure, grid[1, -1], "exact mass", noise)
    save(figure, path)


def draw_panel(axes: Sequence[Any], panel: Panel, exact: Tensor, groups: Groups) -> None:
    """Draw the images of a panel on the first of two axes, and its masses on the second."""
    show_digits(axes[0], panel.images, _COLUMNS)
    height = 10 * len(panel.images) // _COLUMNS / max(1, len(panel.row_names))
    for row, name in enumerate(panel.row_names):
        axes[0].text(-3, height * (row + 0.5), name, fontsize=12, ha="right", va="center")
        axes[0].axhline(height * row - 0.5, color="white", lw=5)
    lines = [] if panel.wrong_mass is None else [_wrong_mass(panel.wrong_mass)]
    _set_heading(axes[0], panel.name, panel.colour, lines)
    draw_masses(axes[1], panel, exact, groups)


def draw_masses(axis: Any, panel: Panel, exact: Tensor, groups: Groups) -> None:
    """Draw the masses of a panel as bars, with the exact masses as black marks over them."""
    place = _places(len(exact), groups.size)
    axis.bar(place, panel.masses.tolist(), 0.9, color=panel.colour, alpha=0.85)
    if panel.colour != EXACT:
        left, right = [at - 0.55 for at in place], [at + 0.55 for at in place]
        axis.hlines(exact.tolist(), left, right, color=EXACT, lw=2.5, label="exact")
    middle = [
        sum(place[i * groups.size : (i + 1) * groups.size]) / groups.size
        for i in range(len(groups.names))
    ]
    axis.set_xticks(middle, groups.names, fontsize=12)
    axis.tick_params(axis="x", length=0)
    axis.set_xlabel(groups.label, fontsize=12)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def drawn_images(judge: MixtureOfGaussians, x: Tensor, weights: Tensor, count: int) -> Tensor:
    """Return `count` draws [count, 1, 8, 8] of weighted states x [..., 64], sorted by their components.

    A component with the share m of the weight has m count images, within one. judge: the mixture that tells the
    component of a state.
    """
    rows, weights = x.reshape(-1, x.shape[-1]).double(), weights.flatten().double()
    order = judge.responsibilities(rows).argmax(1).argsort(stable=True)
    chosen = order[systematic(weights[order] / weights.sum(), count)]
    return rows[chosen].view(count, 1, 8, 8).float()


def _wrong_mass(share: float) -> str:
    return f"mass in wrong components: {100 * share:.0f} %"


def _set_heading(axis: Any, name: str, colour: str, lines: Sequence[str]) -> None:
    """Write a name above an axis, and smaller lines between the name and the axis."""
    # a line of 11 points and the space below it take 16 points
    pad = 6 + 16 * len(lines)
    axis.set_title(name, fontsize=14, color=colour, fontweight="bold", pad=pad)
    place = {"xycoords": "axes fraction", "textcoords": "offset points"}
    style = {"ha": "center", "va": "bottom", "fontsize": 11, "color": colour}
    axis.annotate("\n".join(lines), (0.5, 1), (0, 5), **place, **style)


def _add_key(figure: Any, axis: Any, name: str, noise: float) -> None:
    """Explain below the figure the black marks of an axis, and the share of wrong mass that noise alone makes."""
    handles, _ = axis.get_legend_handles_labels()
    share = f"{100 * noise:.0f} %"
    label = f"{name}. In as many exact draws as particles the mass in wrong components is {share}"
    figure.legend(handles, [label], fontsize=12, loc="outside lower center", frameon=False)


def _places(count: int, size: int) -> list[float]:
    """Return the places of the bars, with a gap between groups."""
    return [float(k + k // size) for k in range(count)]


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """One column of a comparison of log-densities."""

    name: str
    colour: str
    values: Tensor
    """Log-densities, [n] in nats."""
    weights: Tensor
    """The weights of their states, [n]."""
    wrong_mass: float
    """The share of the mass that lies in wrong components, which is the total variation."""


def draw_densities(
    title: str, exact: Tensor, curves: Sequence[Curve], path: Path, *, noise: float
) -> None:
    """Draw histograms of log-densities side by side, under the outline of the exact one, and save the picture.

    exact: log-densities of exact draws, [n]. noise: the share of the mass in wrong components that as many
    exact draws as particles have.
    """
    figure = new_figure(3.9 * len(curves), 4.2)
    figure.suptitle(title, fontsize=17)
    axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    low, high = _RANGE_OF_DENSITIES
    edges = torch.linspace(low, high, 61).tolist()
    for axis, curve in zip(axes, curves, strict=True):
        axis.hist(
            curve.values.clamp(low, high),
            edges,
            weights=curve.weights,
            density=True,
            color=curve.colour,
            alpha=0.85,
        )
        axis.hist(
            exact.clamp(low, high),
            edges,
            density=True,
            histtype="step",
            color=EXACT,
            lw=2.5,
        )
        weights = curve.weights / curve.weights.sum()
        gap = float((curve.values * weights).sum() - exact.mean())
        lines = [_gap(gap), _wrong_mass(curve.wrong_mass)]
        _set_heading(axis, curve.name, curve.colour, lines)
        axis.set_xlabel("log-density less its exact mean, nats", fontsize=11)
        axis.set_yticks([])
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    axes[0].set_ylabel("share of the draws", fontsize=12)
    # an empty line gives the key its entry
    axes[0].plot([], [], color=EXACT, lw=2.5, label="exact")
    _add_key(figure, axes[0], "exact answer", noise)
    save(figure, path)


def _gap(nats: float) -> str:
    side = "too high" if nats > 0 else "too low"
    return f"mean log-density is {abs(nats):.1f} nats {side}"
