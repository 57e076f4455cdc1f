"""Part (a), the smooth model of the digits, whose p² and products of two classes are known exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from edmfast._internal.tables import Cell, Section
from edmfast.analytic import MixtureOfGaussians
from edmfast.demo.digits import NUM_CLASSES
from edmfast.demo.known_answer import power_answer
from edmfast.demo.part_composition import PAIR_GROUPS, exact_products_panel, products
from edmfast.demo.pictures import EXACT, Groups, Panel, draw_panel, drawn_images, save
from edmfast.demo.smooth_digits import COMPONENTS_PER_CLASS, SIGMA_MIN
from edmfast.plotting import new_figure

CLASSES = Groups(
    [str(label) for label in range(NUM_CLASSES)],
    COMPONENTS_PER_CLASS,
    "two components of each digit",
)
_SHOWN, _DRAWS = 100, 2000


def report_model(mixture: MixtureOfGaussians, out: Path, *, seed: int = 0) -> list[Section]:
    """Return a table of the largest masses, and draw out/a_model.png."""
    square = power_answer(mixture, 2.0, draws=_DRAWS, seed=seed)
    family = products(mixture, seed=seed)
    plain = mixture.sample(_DRAWS, SIGMA_MIN, seed=seed)
    composed = exact_products_panel(family, _SHOWN // len(family.names))
    panels = [
        (_panel("p: the digits", square.judge, plain, mixture.weights), CLASSES),
        (_panel("p²", square.judge, square.draws, square.masses), CLASSES),
        (dataclasses.replace(composed, name="p(x|a) p(x|b)"), PAIR_GROUPS),
    ]
    figure = new_figure(11, 6)
    figure.suptitle("A model of digits whose p² and products are known exactly", fontsize=17)
    grid = figure.subplots(2, len(panels), height_ratios=[10, 4])
    for column, (panel, groups) in enumerate(panels):
        draw_panel(grid[:, column], panel, panel.masses, groups)
        # the same scale shows that p² and products concentrate on few components
        grid[1, column].set_ylim(0, 1.05)
        if column:
            grid[1, column].set_yticklabels([])
    grid[1, 0].set_ylabel("mass", fontsize=12)
    save(figure, out / "a_model.png")
    rows: list[list[Cell]] = [
        ["p", *_largest(mixture.weights), None],
        ["p²", *_largest(square.masses), square.log_z],
    ]
    for name, answer in zip(family.names, family.answers, strict=True):
        rows.append([f"product {name}", *_largest(answer.masses), answer.log_z])
    changed = 0.5 * float((square.masses - mixture.weights).abs().sum())
    notes = [
        f"{100 * changed:.0f} % of the mass lies in other components in p² than in p",
        "product a·b: p(x | a) p(x | b), of the classes a and b",
        "first, second, third, fourth: the largest masses of components, and of pairs of components in a product",
        "log Z: log of the integral of the density, in nats; -: p is normalised, so that its log Z is 0",
    ]
    title = f"(a) a smooth model: {len(mixture.weights)} Gaussians in 64 dimensions, largest masses"
    header = ["density", "first", "second", "third", "fourth", "log Z"]
    return [Section(title, header, rows, notes)]


def _panel(name: str, judge: MixtureOfGaussians, x: Tensor, masses: Tensor) -> Panel:
    return Panel(name, EXACT, drawn_images(judge, x, torch.ones(len(x)), _SHOWN), masses)


def _largest(masses: Tensor) -> list[float]:
    largest: list[float] = masses.topk(4).values.tolist()
    return largest
