"""Part (c), composition from a plain denoiser: products of two classes, and guidance, beside the exact answers.

- Product: p(x | a) p(x | b) for five pairs of classes. Each class is two Gaussians, so the exact answer is four.
- Guidance: p(x)^(1-w) p(x | c)^w for every class c, see `guided_answer`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from edmfast.analytic import MixtureOfGaussians
from edmfast.demo.budget import Budget
from edmfast.demo.guided_answer import guided_answer
from edmfast.demo.known_answer import KnownAnswer, product_answer
from edmfast.demo.laws import OF_DENOISERS, Law, Populations, run_law
from edmfast.demo.pictures import (
    EXACT,
    Groups,
    Panel,
    draw_comparison,
    draw_densities,
    drawn_images,
)
from edmfast.demo.table import Cell, Section
from edmfast.demo.yardstick import Measures
from edmfast.targets import Conditioned, Guided, Product
from edmfast.targets.protocols import Model

PAIRS = ((0, 6), (2, 6), (4, 5), (4, 7), (6, 7))
"""Pairs of classes for which both wrong laws fail clearly. Over all 45 pairs the mean total variation is .03 for
reversal weights, .21 for Feynman–Kac weights and .31 for sums of scores (512 particles, exact denoiser)."""
GUIDANCE = 2.0
PAIR_GROUPS = Groups([f"{a}·{b}" for a, b in PAIRS], 4, "digits")
_SHOWN_OF_PAIR, _DRAWS = 10, 2000


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Several targets with their answers, which run side by side as populations."""

    name: str
    names: Sequence[str]
    """The name of each target."""
    answers: Sequence[KnownAnswer]
    """The answer of each target."""

    def measures(self, made: Populations) -> list[Measures]:
        """Return the measures of each target, which have equal numbers of consecutive populations."""
        repeats = len(made.x) // len(self.answers)
        return [
            made.part(i * repeats, (i + 1) * repeats).measures(answer)
            for i, answer in enumerate(self.answers)
        ]


def products(mixture: MixtureOfGaussians, *, seed: int = 0) -> Family:
    """Return the products of the pairs of classes."""
    answers = [
        product_answer(
            mixture.conditional(a), mixture.conditional(b), draws=_DRAWS, seed=seed + index
        )
        for index, (a, b) in enumerate(PAIRS)
    ]
    return Family("products of two classes", PAIR_GROUPS.names, answers)


def guided(mixture: MixtureOfGaussians, *, seed: int = 0) -> Family:
    """Return guidance towards every class."""
    answers = [
        guided_answer(mixture, label, GUIDANCE, draws=_DRAWS, seed=seed + label)
        for label in range(mixture.num_classes)
    ]
    return Family(
        f"guidance w = {GUIDANCE:g}", [str(c) for c in range(mixture.num_classes)], answers
    )


def product_target(denoiser: nn.Module, repeats: int) -> Product:
    """Return the product of the denoiser's classes, with `repeats` populations for each pair."""
    return Product([of_classes(denoiser, side, repeats) for side in zip(*PAIRS, strict=True)])


def guided_target(denoiser: nn.Module, classes: int, repeats: int) -> Guided:
    """Return guidance towards every class, with `repeats` populations for each class."""
    base = Conditioned(denoiser, class_label=classes)
    return Guided(base, of_classes(denoiser, range(classes), repeats), GUIDANCE)


def of_classes(denoiser: nn.Module, labels: Sequence[int], repeats: int) -> Conditioned:
    """Return the denoiser with a class for each population, `repeats` of them for each label."""
    return Conditioned(denoiser, class_label=torch.tensor(labels).repeat_interleave(repeats))


def exact_products_panel(family: Family) -> Panel:
    """Return the panel of the exact products, with as many images of every pair."""
    images = [_images(answer, answer.draws) for answer in family.answers]
    masses = torch.cat([answer.masses for answer in family.answers])
    return Panel("exact answer", EXACT, torch.cat(images), masses, row_names=family.names)


def report_composition(
    mixture: MixtureOfGaussians,
    denoiser: nn.Module,
    budget: Budget,
    out: Path,
    *,
    seed: int = 0,
) -> list[Section]:
    """Return tables of products and of guidance, and draw out/c_composition.png and out/c_guidance.png.

    denoiser: a plain, class-conditional denoiser of the mixture, for states [B, 64].
    """
    family = products(mixture, seed=seed)
    target: Model = product_target(denoiser, budget.composed_populations)
    panels, rows = [exact_products_panel(family)], []
    for law, made, measures in _runs(family, target, (1.0, 1.0), budget, seed):
        repeats = budget.composed_populations
        images = [
            _images(answer, x, weights)
            for answer, x, weights in zip(
                family.answers, made.x.split(repeats), made.weights.split(repeats), strict=True
            )
        ]
        masses = torch.cat([each.masses.mean(0) for each in measures])
        rows.append(_row(law, made, measures))
        panels.append(
            Panel(
                law.name,
                law.colour,
                torch.cat(images),
                masses,
                _variation(measures),
                row_names=family.names,
            )
        )
    exact = panels[0].masses
    title = "Products p(x|a) p(x|b) from a plain denoiser"
    draw_comparison(title, panels, exact, PAIR_GROUPS, out / "c_composition.png")
    sections = [_section(family, rows, budget)]

    family = guided(mixture, seed=seed)
    target = guided_target(denoiser, mixture.num_classes, budget.composed_populations)
    exponents = (1 - GUIDANCE, GUIDANCE)
    rows, curves = [], []
    for law, made, measures in _runs(family, target, exponents, budget, seed):
        rows.append(_row(law, made, measures))
        curves.append((law.name, law.colour, *_densities(family, made)))
    truth = torch.cat(
        [answer.log_target(answer.draws) - answer.log_density for answer in family.answers]
    )
    title = f"Guidance w = {GUIDANCE:g} from a plain denoiser"
    draw_densities(title, truth, curves, out / "c_guidance.png")
    return [*sections, _section(family, rows, budget)]


def _runs(
    family: Family, target: Model, exponents: tuple[float, float], budget: Budget, seed: int
) -> list[tuple[Law, Populations, list[Measures]]]:
    runs = []
    for law in OF_DENOISERS:
        made = run_law(
            law,
            target,
            exponents,
            steps=budget.steps,
            particles=budget.particles,
            populations=budget.composed_populations * len(family.answers),
            seed=seed,
        )
        runs.append((law, made, family.measures(made)))
    return runs


def _densities(family: Family, made: Populations) -> tuple[Tensor, Tensor]:
    """Return the log-densities of all particles, each less the exact mean of its target, and their weights."""
    repeats = len(made.x) // len(family.answers)
    values = [
        answer.log_target(x.flatten(0, 1).double()) - answer.log_density
        for answer, x in zip(family.answers, made.x.split(repeats), strict=True)
    ]
    return torch.cat(values), made.weights.flatten() / len(made.weights)


def _images(answer: KnownAnswer, x: Tensor, weights: Tensor | None = None) -> Tensor:
    equal = x.new_ones(x.shape[:-1]) if weights is None else weights
    return drawn_images(answer.judge, x, equal, _SHOWN_OF_PAIR)


def _variation(measures: Sequence[Measures]) -> float:
    return sum(each.total_variation_of_mean for each in measures) / len(measures)


def _row(law: Law, made: Populations, measures: Sequence[Measures]) -> list[Cell]:
    count, variance = len(measures), made.log_weight_variance
    return [
        law.name,
        _variation(measures),
        max(each.total_variation_of_mean for each in measures),
        sum(float(each.total_variation.mean()) for each in measures) / count,
        sum(float(each.log_density_gap.mean()) for each in measures) / count,
        None if variance is None else float(variance.mean()),
        made.evaluations,
        made.seconds,
    ]


def _section(family: Family, rows: Sequence[Sequence[Cell]], budget: Budget) -> Section:
    header = [
        "law",
        "TV",
        "worst TV",
        "TV per run",
        "Δ log-density",
        "var log G",
        "NFE",
        "seconds",
    ]
    title = (
        f"(c) {family.name} from a plain denoiser, {budget.steps} steps, "
        f"{budget.composed_populations} x {budget.particles} particles for each target"
    )
    notes = [
        f"TV: total variation of the masses of components, as the mean over {len(family.answers)} targets"
    ]
    return Section(title, header, rows, notes)
