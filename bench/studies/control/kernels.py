"""Tables for `bench.studies.control` of the kernels of energies, and of when a population is resampled."""

from __future__ import annotations

from typing import Any

from bench.studies.control.comparison import mean_and_error
from bench.studies.control.laws import Size, levels, run_ours
from bench.studies.control.tasks import Task
from edmfast import smc
from edmfast._internal.tables import Cell, Section

KERNELS = ("euler", "ancestral", "noise_matched", "curvature_matched")
STEPS = (16, 32)
THRESHOLDS = ((0.2, "systematic"), (0.4, "systematic"), (0.5, "systematic"), (0.5, "ssp"))


def kernels(tasks: list[Task], size: Size, seed: int) -> Section:
    """Tabulate what the kernel and the noise levels do to the weights of exact energies."""
    rows: list[list[Cell]] = []
    for task in tasks:
        for steps in STEPS:
            fitted = smc.calibrate(
                task.target(energies=True),
                task.shape,
                levels(steps),
                particles=size.pilot,
                sigma_lo=0.0,
            )
            schedules: list[tuple[str, Any]] = [(name, levels(steps)) for name in KERNELS]
            for name, sigmas in [*schedules, ("curvature_matched, equalised", fitted)]:
                options: dict[str, Any] = {"proposal": name.split(",")[0], "weights": "energy"}
                run = run_ours(task, sigmas, size, seed, energies=True, **options)
                rows.append([f"{task.name}, {steps} steps: {name}", *_numbers(run)])
    title = f"kernels of exact energies: {size.particles} particles, {size.populations} populations"
    return Section(title, ["target, steps: kernel", *_HEADER], rows)


def thresholds(task: Task, size: Size, seed: int) -> Section:
    """Tabulate unique ancestors by ESS threshold and resampling scheme, with matched reversals."""
    rows: list[list[Cell]] = []
    for threshold, scheme in THRESHOLDS:
        chosen = size._replace(threshold=threshold)
        options: dict[str, Any] = {"weights": "reversal", "resampling": scheme}
        run = run_ours(task, levels(32), chosen, seed, **options)
        rows.append([f"{threshold:g}, {scheme}", *_numbers(run)])
    title = (
        f"when and how to resample: {task.name}, reversal weights with exact traces, {size.particles} "
        f"particles, {size.populations} populations"
    )
    return Section(title, ["ESS threshold, scheme", *_HEADER], rows)


_HEADER = ("total var log G", "median sd", "resampled", "lowest ESS %", "ancestors %")


def _numbers(run: smc.Particles) -> list[Cell]:
    particles = run.x.shape[1]
    sd = run.log_weight_sd[1:]
    return [
        mean_and_error((sd.square().sum(0)).tolist()),
        f"{float(sd.median()):.2f}",
        f"{float(run.resampled.double().sum(0).mean()):.1f}",
        mean_and_error((100 * run.ess.min(0).values.double() / particles).tolist()),
        mean_and_error((100 * run.unique_ancestors.double() / particles).tolist()),
    ]
