"""Part (c), composition from a plain denoiser: products of two classes, and guidance, beside the exact answers.

The denoiser is that of the smooth model, whose energy and traces are hidden. The last row of each table takes the
learned denoiser of part (b) instead, and it is wrong. A product lies in the tails of both classes, of which the
network has seen few draws: at noise level .3 the error of its denoised states is .18 sigma on exact draws of the
products, and .13 sigma on draws of the classes.

- Product: p(x | a) p(x | b) for five pairs of classes. Each class is two Gaussians, so the exact answer is four.
- Guidance: p(x)^(1-w) p(x | c)^w for every class c, see `guided_answer`.
  Each target is a class of two Gaussians. The mean total variation of their masses is .05 for matched reversals,
  .07 for scaled scores and .02 for as many exact draws, so that masses alone hardly tell the laws apart. The mean
  log-density of scaled scores is 6 nats too high, and that of matched reversals .4 nats too low.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from edmfast._internal.tables import Cell, Section
from edmfast.analytic import MixtureOfGaussians
from edmfast.demo.budget import Budget
from edmfast.demo.guided_answer import guided_answer
from edmfast.demo.known_answer import KnownAnswer, product_answer
from edmfast.demo.laws import OF_DENOISERS, REVERSAL, Law, PlainDenoiser, Populations, run_law
from edmfast.demo.pictures import (
    EXACT,
    Curve,
    Groups,
    Panel,
    draw_comparison,
    draw_densities,
    drawn_images,
)
from edmfast.demo.yardstick import Measures, measures_of_draws
from edmfast.targets import Conditioned, Guided, Product
from edmfast.targets.protocols import Model

PAIRS = ((0, 6), (2, 6), (4, 5), (4, 7), (6, 7))
"""Pairs of classes for which both wrong laws fail clearly. Over all 45 pairs the mean total variation is .03 for
reversal weights, .21 for Feynman–Kac weights and .31 for sums of scores (512 particles, exact denoiser)."""
GUIDANCE = 2.0
PAIR_GROUPS = Groups([f"{a}·{b}" for a, b in PAIRS], 4, "four components of each pair")
_SHOWN_OF_PAIR, _DRAWS = 10, 2000

Run = tuple[Law, Populations, list[Measures]]
"""A law, its populations, and their measures for each target."""


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Several targets with their answers, which run side by side as populations."""

    name: str
    names: Sequence[str]
    """The name of each target."""
    answers: Sequence[KnownAnswer]
    """The answer of each target."""
    repeats: int
    """The number of consecutive populations of each target."""
    target_of: Callable[[nn.Module], Model]
    """A function that makes the targets of all populations from a class-conditional denoiser."""

    def measures(self, made: Populations) -> list[Measures]:
        """Return the measures of each target."""
        return [
            made.part(i * self.repeats, (i + 1) * self.repeats).measures(answer)
            for i, answer in enumerate(self.answers)
        ]

    def exact_measures(self, particles: int, seed: int) -> list[Measures]:
        """Return the measures of as many exact draws for each target as it has particles."""
        return [
            measures_of_draws(
                # the draws of the answers have the seeds before these
                answer,
                particles,
                populations=self.repeats,
                seed=seed + len(self.answers) + i,
            )
            for i, answer in enumerate(self.answers)
        ]


def products(mixture: MixtureOfGaussians, repeats: int = 1, *, seed: int = 0) -> Family:
    """Return the products of the pairs of classes."""
    answers = [
        product_answer(
            mixture.conditional(a), mixture.conditional(b), draws=_DRAWS, seed=seed + index
        )
        for index, (a, b) in enumerate(PAIRS)
    ]

    def target_of(denoiser: nn.Module) -> Product:
        sides = zip(*PAIRS, strict=True)
        return Product([_of_classes(denoiser, side, repeats) for side in sides])

    return Family("products of two classes", PAIR_GROUPS.names, answers, repeats, target_of)


def guided(mixture: MixtureOfGaussians, repeats: int = 1, *, seed: int = 0) -> Family:
    """Return guidance towards every class."""
    classes = range(mixture.num_classes)
    answers = [
        guided_answer(mixture, label, GUIDANCE, draws=_DRAWS, seed=seed + label)
        for label in classes
    ]

    def target_of(denoiser: nn.Module) -> Guided:
        base = Conditioned(denoiser, class_label=len(classes))
        return Guided(base, _of_classes(denoiser, classes, repeats), GUIDANCE)

    names = [str(label) for label in classes]
    return Family(f"guidance w = {GUIDANCE:g}", names, answers, repeats, target_of)


def _of_classes(denoiser: nn.Module, labels: Sequence[int], repeats: int) -> Conditioned:
    """Return the denoiser with a class for each population, `repeats` of them for each label."""
    return Conditioned(denoiser, class_label=torch.tensor(labels).repeat_interleave(repeats))


def exact_products_panel(family: Family, shown: int = _SHOWN_OF_PAIR) -> Panel:
    """Return the panel of the exact products, with `shown` images of every pair."""
    images = []
    for answer in family.answers:
        equal = answer.draws.new_ones(len(answer.draws))
        images.append(drawn_images(answer.judge, answer.draws, equal, shown))
    masses = torch.cat([answer.masses for answer in family.answers])
    return Panel("exact answer", EXACT, torch.cat(images), masses, row_names=family.names)


def report_composition(
    mixture: MixtureOfGaussians,
    learned: nn.Module,
    budget: Budget,
    out: Path,
    *,
    seed: int = 0,
) -> list[Section]:
    """Return tables of products and of guidance, and draw out/c_composition.png and out/c_guidance.png.

    learned: a trained, class-conditional denoiser of the mixture, for states [B, 64].
    """
    denoiser = PlainDenoiser(mixture)
    family = products(mixture, budget.composed_populations, seed=seed)
    runs = [_run(law, family, denoiser, budget, seed) for law in OF_DENOISERS]
    panels = [exact_products_panel(family), *(_panel_of(family, *run) for run in runs)]
    exact = family.exact_measures(budget.particles, seed)
    draw_comparison(
        "Products p(x|a) p(x|b) from a plain denoiser",
        panels,
        panels[0].masses,
        PAIR_GROUPS,
        out / "c_composition.png",
        noise=_variation(exact),
    )
    of_learned = _run(REVERSAL, family, learned, budget, seed)
    sections = [_section(family, exact, runs, of_learned, budget)]

    family = guided(mixture, budget.guided_populations, seed=seed)
    runs = [_run(law, family, denoiser, budget, seed) for law in OF_DENOISERS]
    truth = [answer.log_target(answer.draws) - answer.log_density for answer in family.answers]
    curves = [
        Curve(law.name, law.colour, *_densities(family, made), _variation(measures))
        for law, made, measures in runs
    ]
    exact = family.exact_measures(budget.particles, seed)
    title = f"Guidance w = {GUIDANCE:g} from a plain denoiser"
    draw_densities(title, torch.cat(truth), curves, out / "c_guidance.png", noise=_variation(exact))
    of_learned = _run(REVERSAL, family, learned, budget, seed)
    return [*sections, _section(family, exact, runs, of_learned, budget)]


def _run(law: Law, family: Family, denoiser: nn.Module, budget: Budget, seed: int) -> Run:
    made = run_law(
        law,
        family.target_of(denoiser),
        family.answers[0].exponents,
        steps=budget.steps,
        particles=budget.particles,
        populations=family.repeats * len(family.answers),
        seed=seed,
    )
    return law, made, family.measures(made)


def _panel_of(family: Family, law: Law, made: Populations, measures: Sequence[Measures]) -> Panel:
    states, weights = made.x.split(family.repeats), made.weights.split(family.repeats)
    images = [
        drawn_images(answer.judge, x, of_x, _SHOWN_OF_PAIR)
        for answer, x, of_x in zip(family.answers, states, weights, strict=True)
    ]
    masses = torch.cat([each.masses.mean(0) for each in measures])
    return Panel(
        law.name,
        law.colour,
        torch.cat(images),
        masses,
        _variation(measures),
        row_names=family.names,
    )


def _densities(family: Family, made: Populations) -> tuple[Tensor, Tensor]:
    """Return the log-densities of all particles, each less the exact mean of its target, and their weights."""
    values = [
        answer.log_target(x.flatten(0, 1).double()) - answer.log_density
        for answer, x in zip(family.answers, made.x.split(family.repeats), strict=True)
    ]
    return torch.cat(values), made.weights.flatten() / len(made.weights)


def _variation(measures: Sequence[Measures]) -> float:
    return sum(each.total_variation_of_mean for each in measures) / len(measures)


def _row(law: Law, made: Populations, measures: Sequence[Measures]) -> list[Cell]:
    variance = made.log_weight_variance
    return [
        law.name,
        *_cells(measures),
        None if variance is None else float(variance.mean()),
        made.evaluations,
        made.seconds,
    ]


def _cells(measures: Sequence[Measures]) -> list[Cell]:
    """Return the cells that exact draws have too."""
    return [
        _variation(measures),
        max(each.total_variation_of_mean for each in measures),
        sum(float(each.total_variation.mean()) for each in measures) / len(measures),
        sum(float(each.log_density_gap.mean()) for each in measures) / len(measures),
    ]


def _section(
    family: Family,
    exact: Sequence[Measures],
    runs: Sequence[Run],
    learned: Run,
    budget: Budget,
) -> Section:
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
        f"{family.repeats} x {budget.particles} particles for each target"
    )
    notes = [
        "exact draws: as many independent draws of the answer as particles, which show the noise of the measures",
        "learned: from the denoiser of part (b), which has seen few draws in the tails of the classes",
        "TV: total variation of the masses of components, which is the share of the mass in wrong components,",
        f"    for the mean over populations, as the mean over {len(family.answers)} targets",
        "worst TV: the largest TV of a target",
        "TV per run: the mean over populations and targets of each population's own TV",
        "Δ log-density: mean log-density of the target less its exact mean, in nats; 0 is right",
        "var log G: variance of the log-weights, summed over the steps, in nats²",
        "NFE: evaluations of models for one particle, with vector-Jacobian products",
        "seconds: duration of the runs of all targets together",
        "-: there is no such number, since scaled scores have no weights, and exact draws need no model",
    ]
    name, *cells = _row(*learned)
    rows = [
        ["exact draws", *_cells(exact), None, None, None],
        *(_row(*run) for run in runs),
        [f"{name}, learned", *cells],
    ]
    return Section(title, header, rows, notes)
