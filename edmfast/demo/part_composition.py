"""Part (c), composition of distilled energies: guidance, and digits that belong to two classes at once.

- Guided: p^(1-w) p(x | class)^w, with the unconditional energy as the base. Product: p(x | a) p(x | b).
- Unweighted: the same proposal without weights, which is guidance without sequential Monte Carlo.
- ΔU: the mean energy of the target at the level where weighting ends, less that of sequential Monte Carlo.
  Where it is positive, the samples are less likely under the target.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from edmfast._internal.rows import for_rows
from edmfast.demo.budget import Budget
from edmfast.demo.classifier import DigitClassifier, diversity
from edmfast.demo.controlled_run import (
    WEIGHTED_ABOVE,
    ControlledRun,
    run_controlled,
    with_class_labels,
)
from edmfast.demo.digits import NUM_CLASSES, Digits
from edmfast.demo.pictures import save, show_digits
from edmfast.demo.table import Cell, Section
from edmfast.models import EnergyModel
from edmfast.ops import standard_normal
from edmfast.plotting import new_figure
from edmfast.targets import Guided, Product, Target

GUIDANCE = 3.0
PAIRS = ((3, 8), (1, 7), (4, 9), (5, 6), (0, 6))


def guided(energy: EnergyModel) -> Guided:
    """Return the target of every class, guided away from the unconditional energy."""
    base = with_class_labels(energy, [NUM_CLASSES] * NUM_CLASSES)
    return Guided(base, with_class_labels(energy, [*range(NUM_CLASSES)]), GUIDANCE)


def product(energy: EnergyModel) -> Product:
    """Return the product of both classes, for every pair."""
    return Product([with_class_labels(energy, [*labels]) for labels in zip(*PAIRS, strict=True)])


def report_composition(
    energy: EnergyModel,
    held_out: Digits,
    classifier: DigitClassifier,
    budget: Budget,
    out: Path,
    *,
    seed: int = 0,
) -> list[Section]:
    """Return a table with a row for each target and method, and draw out/c_composition.png."""
    particles = budget.control_particles
    wanted = torch.eye(NUM_CLASSES)
    # the exponents 1/2 make the geometric mean of both probabilities
    both = torch.stack([0.5 * (wanted[a] + wanted[b]) for a, b in PAIRS])
    names = " ".join(f"{a}·{b}" for a, b in PAIRS)
    cases: list[tuple[str, Target, Tensor]] = [
        (f"guided w = {GUIDANCE:g}", guided(energy), wanted),
        (f"product {names}", product(energy), both),
    ]
    figure = new_figure(9, 6)
    axes = figure.subplots(2, 2)
    rows: list[list[Cell]] = []
    for line, (name, target, classes) in enumerate(cases):
        populations = len(classes)
        runs = {
            method: run_controlled(
                target,
                budget.control_steps,
                particles,
                populations,
                weighted=method == "SMC",
                seed=seed,
            )
            for method in ("SMC", "unweighted")
        }
        lowest = _mean_energy(target, runs["SMC"], seed)
        for column, (method, run) in enumerate(runs.items()):
            row: list[Cell] = [f"{name}: {method}", _match(classifier, run.images, classes)]
            row += [sum(map(diversity, run.images)) / populations]
            row += [_mean_energy(target, run, seed) - lowest, *run.weights_row()]
            rows.append(row)
            # resampling orders particles by ancestor, so equal strides show different families
            shown = run.images[:, :: particles // 8][:, :8].transpose(0, 1).flatten(0, 1)
            show_digits(axes[line, column], shown, populations, f"{name}: {method}")
    save(figure, out / "c_composition.png")
    header = [
        "target: method",
        "match",
        "diversity",
        "ΔU nats",
        "sd log G",
        "lowest ESS %",
        "ancestors %",
        "NFE/s",
    ]
    real = sum(diversity(held_out.images[held_out.labels == c]) for c in range(NUM_CLASSES))
    notes = [
        "match: probability of the class by the classifier; for a product, the geometric mean of both",
        f"diversity: mean distance within a class or pair; {real / NUM_CLASSES:.3g} for real digits",
    ]
    return [Section(f"(c) composition, {budget.control_steps} levels", header, rows, notes)]


def _match(classifier: DigitClassifier, images: Tensor, classes: Tensor) -> float:
    """Return the mean over images [P, N, 1, 8, 8] of exp(sum_c classes[p, c] log probability_c)."""
    probabilities = classifier.probabilities(images.flatten(0, 1)).view(*images.shape[:2], -1)
    return float((probabilities.log() * classes[:, None]).sum(2).exp().mean())


@torch.no_grad()
def _mean_energy(target: Target, run: ControlledRun, seed: int) -> float:
    """Return the mean energy of the final images, after noise up to the level where weighting ends is added.

    All targets and methods get the same noise.
    """
    noise = standard_normal(run.images, seed=seed, step=0, stream=5)
    x = (run.images + WEIGHTED_ABOVE * noise).flatten(0, 1)
    # the target has one label for each population, and here each row needs its own
    target = for_rows(target, 0, len(x), len(x))
    return float(target.energy_and_score(x, WEIGHTED_ABOVE)[0].mean())
