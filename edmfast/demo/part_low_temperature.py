"""Part (b), low temperature p(x | class)^gamma on the distilled energy: sequential Monte Carlo and score scaling.

- Adherence: the share of the samples that the classifier takes for their class.
- Diversity: the mean distance between two samples of a class, divided by that of held-out digits of the class.
  Copies count as samples, so a population that collapsed onto few ancestors has little diversity.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from edmfast.demo.budget import Budget
from edmfast.demo.classifier import DigitClassifier, diversity
from edmfast.demo.controlled_run import (
    WEIGHTED_ABOVE,
    ControlledRun,
    levels,
    run_controlled,
    with_class_labels,
)
from edmfast.demo.digits import NUM_CLASSES, SHAPE, Digits
from edmfast.demo.pictures import save, show_digits
from edmfast.demo.score_scaling import score_scaled_samples
from edmfast.demo.table import Cell, Section
from edmfast.models import EnergyModel
from edmfast.plotting import new_figure
from edmfast.targets import Tempered

GAMMAS = (1.0, 2.0, 4.0)
_SHOWN_LEVELS = (20.0, 5.0, 2.0, 1.0, 0.5, 0.3, 0.1, 0.05)
_CLASSES = [*range(NUM_CLASSES)]


def score_scaled_images(
    energy: EnergyModel, gamma: float, steps: int, particles: int, seed: int
) -> Tensor:
    """Return images [10, N, 1, 8, 8] by score scaling, denoised at the end as those of `smc.sample` are."""
    # one batch holds all classes, each with the same number of rows
    batch = NUM_CLASSES * particles
    target = with_class_labels(energy, _CLASSES).for_rows(0, batch, batch)
    like = torch.empty(NUM_CLASSES, particles, *SHAPE)
    noise = levels(steps)[:-1]
    x = score_scaled_samples(target, gamma, like, noise, seed=seed)
    with torch.no_grad():
        images: Tensor = target(x.flatten(0, 1), float(noise[-1])).view_as(x)
        return images


def report_temperature(
    energy: EnergyModel,
    held_out: Digits,
    classifier: DigitClassifier,
    budget: Budget,
    out: Path,
    *,
    seed: int = 0,
) -> list[Section]:
    """Return a table with a row for each gamma and method, and draw out/b_temperature.png."""
    steps, particles = budget.control_steps, budget.control_particles
    real = [diversity(held_out.images[held_out.labels == label]) for label in _CLASSES]
    rows: list[list[Cell]] = []
    per_step: list[list[Cell]] = []
    shown: list[tuple[str, Tensor]] = []

    def add(name: str, images: Tensor, run: ControlledRun | None, rate: float) -> None:
        labels = torch.arange(NUM_CLASSES).repeat_interleave(particles)
        spread = sum(diversity(x) / of_real for x, of_real in zip(images, real, strict=True))
        flat = images.flatten(0, 1)
        measured = [
            classifier.adherence(flat, labels),
            spread / NUM_CLASSES,
            classifier.frechet(flat),
        ]
        # score scaling has no weights to report
        rows.append([name, *measured, *(run.weights_row() if run else [None] * 3 + [rate])])
        # resampling orders particles by ancestor, so equal strides show different families
        shown.append((name, images[:, :: particles // 8][:, :8].transpose(0, 1).flatten(0, 1)))

    for gamma in GAMMAS:
        target = Tempered(with_class_labels(energy, _CLASSES), gamma)
        run = run_controlled(target, steps, particles, NUM_CLASSES, seed=seed)
        add(f"γ = {gamma:g}: SMC", run.images, run, run.rate)
        per_step.append([f"γ = {gamma:g}", *run.step_sd(_SHOWN_LEVELS)])
        started = time.perf_counter()
        images = score_scaled_images(energy, gamma, steps, particles, seed)
        rate = NUM_CLASSES * particles * steps / (time.perf_counter() - started)
        add(f"γ = {gamma:g}: score scaling", images, None, rate)
    figure = new_figure(10, 6)
    axes = figure.subplots(2, len(GAMMAS))
    for index, (name, images) in enumerate(shown):
        show_digits(axes[index % 2, index // 2], images, NUM_CLASSES, name)
    save(figure, out / "b_temperature.png")
    header = [
        "target: method",
        "adherence",
        "diversity",
        "Fréchet",
        "sd log G",
        "lowest ESS %",
        "ancestors %",
        "NFE/s",
    ]
    title = f"(b) low temperature, {steps} levels, {particles} particles for each of 10 classes"
    held = classifier.adherence(held_out.images, held_out.labels)
    note = f"diversity: 1 is that of real digits; adherence of the held-out half: {held:.3g}"
    check = Section(
        f"(b) sd of log G in nats per step, at noise level (weights: above {WEIGHTED_ABOVE:g})",
        ["target", *(f"σ {sigma:g}" for sigma in _SHOWN_LEVELS)],
        per_step,
    )
    return [Section(title, header, rows, [note]), check]
