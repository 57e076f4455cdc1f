"""(b) Low temperature p(x | class)^gamma on the distilled energy: SMC against score scaling.

Adherence: share of the samples that the held-out judge takes for their class. Diversity: mean
distance between two samples of a class, as a share of that between held-out digits of the class.
Copies count: a population that collapsed onto few ancestors has little diversity.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from edmfast.demo.baseline import score_scaled_samples
from edmfast.demo.budget import Budget
from edmfast.demo.control import WEIGHTED_ABOVE, Run, controlled, levels, of_class
from edmfast.demo.data import NUM_CLASSES, SHAPE, Digits
from edmfast.demo.judge import Judge, diversity
from edmfast.demo.pictures import new_figure, save, show_digits
from edmfast.demo.table import Cell, Section
from edmfast.models import EnergyModel
from edmfast.targets import Tempered

GAMMAS = (1.0, 2.0, 4.0)
_SHOWN_LEVELS = (20.0, 5.0, 2.0, 1.0, 0.5, 0.3, 0.1, 0.05)
_CLASSES = [*range(NUM_CLASSES)]


def scaled(energy: EnergyModel, gamma: float, steps: int, particles: int, seed: int) -> Tensor:
    """Plain score scaling: images [10, N, 1, 8, 8], denoised at the end as SMC's are."""
    batch = NUM_CLASSES * particles
    target = of_class(energy, _CLASSES).for_rows(0, batch, batch)
    like = torch.empty(NUM_CLASSES, particles, *SHAPE)
    noise = levels(steps)[:-1]
    x = score_scaled_samples(target, gamma, like, noise, seed=seed)
    with torch.no_grad():
        return target(x.flatten(0, 1), float(noise[-1])).view_as(x)


def report_temperature(
    energy: EnergyModel, held_out: Digits, judge: Judge, budget: Budget, out: Path, *, seed: int = 0
) -> list[Section]:
    """A row per gamma and method; out/b_temperature.png."""
    steps, particles = budget.control_steps, budget.control_particles
    real = [diversity(held_out.images[held_out.labels == label]) for label in _CLASSES]
    rows: list[list[Cell]] = []
    per_step: list[list[Cell]] = []
    shown: list[tuple[str, Tensor]] = []

    def add(name: str, images: Tensor, run: Run | None, rate: float) -> None:
        labels = torch.arange(NUM_CLASSES).repeat_interleave(particles)
        spread = sum(diversity(one) / all_ for one, all_ in zip(images, real, strict=True))
        flat = images.flatten(0, 1)
        measured = [judge.adherence(flat, labels), spread / NUM_CLASSES, judge.frechet(flat)]
        rows.append([name, *measured, *(run.weights_row() if run else [None] * 3 + [rate])])
        # Resampling orders particles by ancestor, so equal strides show different families.
        shown.append((name, images[:, :: particles // 8][:, :8].transpose(0, 1).flatten(0, 1)))

    for gamma in GAMMAS:
        target = Tempered(of_class(energy, _CLASSES), gamma)
        run = controlled(target, steps, particles, NUM_CLASSES, seed=seed)
        add(f"γ = {gamma:g}: SMC", run.images, run, run.rate)
        per_step.append([f"γ = {gamma:g}", *run.step_sd(_SHOWN_LEVELS)])
        started = time.perf_counter()
        images = scaled(energy, gamma, steps, particles, seed)
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
    held = judge.adherence(held_out.images, held_out.labels)
    note = f"diversity: 1 is that of real digits; the judge's own half: adherence {held:.3g}"
    check = Section(
        f"(b) sd of log G in nats per step, at noise level (weights: above {WEIGHTED_ABOVE:g})",
        ["target", *(f"σ {sigma:g}" for sigma in _SHOWN_LEVELS)],
        per_step,
    )
    return [Section(title, header, rows, [note]), check]
