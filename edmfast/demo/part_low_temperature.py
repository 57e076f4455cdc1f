"""Part (b), low temperature: p^gamma from a plain denoiser, by three laws, beside the exact answer.

The denoiser is a network that has seen draws of p alone, and no energy is needed. The masses of components, the
log-density and log Z are measured against exact values (`edmfast.demo.yardstick`), and the picture shows the draws
of each law, sorted by component.
"""

from __future__ import annotations

import functools
from pathlib import Path

from torch import nn

from edmfast import smc
from edmfast._internal.tables import Cell, Section
from edmfast.analytic import MixtureOfGaussians
from edmfast.demo.budget import Budget
from edmfast.demo.known_answer import KnownAnswer, power_answer
from edmfast.demo.laws import DIM, OF_DENOISERS, REVERSAL, Law, Populations, noise_levels, run_law
from edmfast.demo.part_model import CLASSES
from edmfast.demo.pictures import EXACT, Panel, draw_comparison, drawn_images
from edmfast.demo.yardstick import HEADER, NOTES, Measures, measures_of_draws
from edmfast.targets import Tempered

GAMMAS = (2.0, 1.25)
"""The exponents of the tables. The picture shows the first of them."""
PILOT_STEPS = 64
"""Steps of the pilot run that calibrates the levels and probes of matched reversals."""
_SHOWN = 100


def report_low_temperature(
    mixture: MixtureOfGaussians,
    denoiser: nn.Module,
    budget: Budget,
    out: Path,
    *,
    seed: int = 0,
) -> list[Section]:
    """Return a table for each gamma, and draw out/b_low_temperature.png.

    denoiser: a plain denoiser of the mixture, for states [B, 64].
    """
    sections = []
    for gamma in GAMMAS:
        answer = power_answer(mixture, gamma, seed=seed)
        exact = exact_measures(answer, budget, seed)
        rows: list[list[Cell]] = [["exact draws", *exact.row(), None]]
        panels = [exact_panel(answer)]
        target = Tempered(denoiser, gamma)
        run = functools.partial(
            run_law,
            target=target,
            exponents=(gamma,),
            steps=budget.steps,
            particles=budget.particles,
            populations=budget.populations,
            seed=seed,
        )
        for law in OF_DENOISERS:
            made = run(law)
            measures = made.measures(answer)
            rows.append([law.name, *measures.row(), made.seconds])
            panels.append(panel_of(law, answer, made, measures))
        calibration = smc.calibrate(
            target,
            (DIM,),
            noise_levels(budget.steps),
            particles=budget.particles,
            pilot_steps=PILOT_STEPS,
            seed=seed,
        )
        made = run(REVERSAL, calibration=calibration)
        name = f"{REVERSAL.name}, calibrated"
        rows.insert(2, [name, *made.measures(answer).row(), made.seconds])
        if gamma == GAMMAS[0]:
            title = "Low temperature p² from a plain denoiser"
            draw_comparison(
                title,
                panels,
                answer.masses,
                CLASSES,
                out / "b_low_temperature.png",
                noise=exact.total_variation_of_mean,
            )
        notes = [
            f"calibrated: at levels and with probes of smc.calibrate, from a pilot run of {PILOT_STEPS} steps",
            *NOTES,
        ]
        sections.append(Section(_title(gamma, budget), ["law", *HEADER, "seconds"], rows, notes))
    return sections


def exact_measures(answer: KnownAnswer, budget: Budget, seed: int) -> Measures:
    """Return the measures of as many exact draws as a run on the smooth digits has particles."""
    # the draws of the answer have the seed itself
    return measures_of_draws(
        answer, budget.particles, populations=budget.populations, seed=seed + 1
    )


def exact_panel(answer: KnownAnswer) -> Panel:
    """Return the panel of the exact answer, which comes first in every comparison."""
    equal = answer.draws.new_ones(len(answer.draws))
    images = drawn_images(answer.judge, answer.draws, equal, _SHOWN)
    return Panel("exact answer", EXACT, images, answer.masses)


def panel_of(law: Law, answer: KnownAnswer, made: Populations, measures: Measures) -> Panel:
    """Return the panel of a law, with its draws sorted by component and its mean masses over populations."""
    images = drawn_images(answer.judge, made.x, made.weights, _SHOWN)
    masses, wrong = measures.masses.mean(0), measures.total_variation_of_mean
    return Panel(law.name, law.colour, images, masses, wrong)


def _title(gamma: float, budget: Budget) -> str:
    return (
        f"(b) low temperature from a plain denoiser: p^{gamma:g}, {budget.steps} steps, "
        f"{budget.populations} populations of {budget.particles} particles"
    )
