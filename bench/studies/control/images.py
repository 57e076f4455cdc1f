"""Tables at image scale for `bench.studies.control`: 64 particles for p(x | c)² and p(x | a) p(x | b) of digits.

Every method runs with the settings of the recommended one: the levels and sigma_lo of that energy's calibration.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from bench.studies.control.digits import SIGMA_MAX, SIGMA_MIN, plus_minus, variance
from bench.studies.control.models import DigitsDensity
from bench.studies.control.tasks import PARTICLES, Quality, Task
from edmfast import smc
from edmfast.demo.controlled_run import equally_weighted
from edmfast.demo.digits import SHAPE
from edmfast.demo.score_scaling import score_scaled_samples
from edmfast.demo.table import Cell, Section
from edmfast.sampling import get_sigmas_karras

STEPS = 32
PATIENT_STEPS = 96
ESS_THRESHOLD = 0.2
"""The threshold of every method. Resampling at half of 64 particles loses more ancestors than it saves."""
KERNELS = ("curvature_matched", "noise_matched", "ancestral", "euler")


def calibration(
    task: Task, energy: Any, particles: int, pilot_steps: int, steps: int = STEPS
) -> smc.Calibration:
    """Return the recommended settings: `smc.calibrate` with a population for every target, and its sigma_lo."""
    levels = get_sigmas_karras(steps, SIGMA_MIN, SIGMA_MAX)
    return smc.calibrate(
        task.target(energy),
        SHAPE,
        levels,
        particles=particles,
        populations=len(task.pairs),
        pilot_steps=pilot_steps,
        seed=1,
    )


def run(
    task: Task, energy: Any, sigmas: Any, sigma_lo: float, repeats: int, seed: int, **options: Any
) -> smc.Particles:
    """Run PARTICLES for every target, `repeats` times."""
    return smc.sample(
        task.target(energy, repeats),
        SHAPE,
        sigmas,
        particles=PARTICLES,
        populations=len(task.pairs) * repeats,
        sigma_range=(sigma_lo, math.inf),
        seed=seed,
        **{"ess_threshold": ESS_THRESHOLD, **options},
    )


def ancestors(result: smc.Particles) -> Tensor:
    """Return the unique ancestors in percent of the particles, [P]."""
    return 100 * result.unique_ancestors.double() / PARTICLES


def lowest_ess(result: smc.Particles, sigma_lo: float) -> Tensor:
    """Return the lowest ESS in percent where the run weighs, [P]."""
    weighted = result.sigmas[result.sigmas > 0] >= sigma_lo
    return 100 * result.ess[weighted].min(0).values / PARTICLES


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The numbers of a method, one for each population or group of populations."""

    name: str
    variance: Tensor | None
    ancestors: Tensor | None
    ess: Tensor | None
    quality: list[str]
    nfe: int

    @property
    def kept(self) -> float:
        """The mean share of unique ancestors in percent; 0 without weights."""
        return 0.0 if self.ancestors is None else float(self.ancestors.mean())

    @property
    def total(self) -> float:
        """The mean total variance in nats²; 0 without weights."""
        return 0.0 if self.variance is None else float(self.variance.mean())

    def row(self) -> list[Cell]:
        columns = [self.variance, self.ancestors, self.ess]
        shown = ["-" if value is None else plus_minus(value) for value in columns]
        return [self.name, *shown, *self.quality, self.nfe]


HEADER = [
    "method",
    "var log G",
    "ancestors %",
    "lowest ESS %",
    "match",
    "diversity",
    "Fréchet",
    "NFE",
]
NOTES = [
    "var log G, lowest ESS: where weighted; match: the judge's probability of the class, of a product",
    "the geometric mean of both; diversity: of the truth 1; Fréchet: to the truth, in the judge's features",
]


def measured(
    name: str, result: smc.Particles, sigma_lo: float, repeats: int, quality: Quality | None
) -> Outcome:
    """Return the outcome of a weighted run."""
    images = quality(equally_weighted(result), repeats) if quality else []
    numbers = variance(result, sigma_lo), ancestors(result), lowest_ess(result, sigma_lo)
    return Outcome(name, *numbers, images, result.nfe)


def on_levels_of(
    task: Task, exact: DigitsDensity, fitted: smc.Calibration, repeats: int, seed: int
) -> Outcome:
    """Return exact energies where a learned one is weighted: same levels, sigma_lo and kernel."""
    result = run(task, exact, fitted.sigmas, fitted.sigma_lo, repeats, seed)
    return measured("exact energies, curvature_matched", result, fitted.sigma_lo, repeats, None)


def patient(
    task: Task,
    energy: Any,
    pilot: tuple[int, int],
    repeats: int,
    seed: int,
    quality: Quality | None,
) -> Outcome:
    """Run curvature matching with more levels.

    This keeps the most ancestors where mass moves between modes on the way, as in products. pilot: particles and
    steps of the calibration.
    """
    fitted = calibration(task, energy, *pilot, steps=PATIENT_STEPS)
    result = run(task, energy, fitted, fitted.sigma_lo, repeats, seed)
    name = f"curvature_matched, {PATIENT_STEPS} levels"
    return measured(name, result, fitted.sigma_lo, repeats, quality)


def thresholds(
    task: Task, energy: Any, fitted: smc.Calibration, repeats: int, seed: int
) -> Section:
    """Tabulate unique ancestors by ESS threshold and resampling scheme."""
    rows: list[list[Cell]] = []
    for threshold, scheme in [
        (0.2, "systematic"),
        (0.3, "systematic"),
        (0.5, "systematic"),
        (0.5, "ssp"),
    ]:
        options: dict[str, Any] = {"ess_threshold": threshold, "resampling": scheme}
        best = run(task, energy, fitted, fitted.sigma_lo, repeats, seed, **options)
        options["proposal"] = "noise_matched"
        rest = run(task, energy, fitted.sigmas, fitted.sigma_lo, repeats, seed, **options)
        columns = [ancestors(best), lowest_ess(best, fitted.sigma_lo), ancestors(rest)]
        rows.append([f"{threshold:g}, {scheme}", *map(plus_minus, columns)])
    header = ["ESS threshold, scheme", "ancestors %", "lowest ESS %", "noise_matched: ancestors %"]
    return Section(f"{task.name}: when and how to resample", header, rows)


def kernels(
    task: Task,
    energy: Any,
    fitted: smc.Calibration,
    repeats: int,
    seed: int,
    quality: Quality | None,
) -> list[Outcome]:
    """Tabulate every kernel with weights from energies, at the same settings."""
    outcomes = []
    for kernel in KERNELS:
        sigmas = fitted if kernel == "curvature_matched" else fitted.sigmas
        result = run(task, energy, sigmas, fitted.sigma_lo, repeats, seed, proposal=kernel)
        outcomes.append(measured(kernel, result, fitted.sigma_lo, repeats, quality))
    return outcomes


def others(
    task: Task, energy: Any, fitted: smc.Calibration, repeats: int, seed: int, quality: Quality
) -> list[Outcome]:
    """Tabulate Feynman–Kac corrector weights from scores, scaled or added scores without weights, and
    SuperDiff."""
    sigmas, low = fitted.sigmas, fitted.sigma_lo
    corrected = run(task, energy, sigmas, low, repeats, seed, weights="score")
    outcomes = [measured("FKC, weights from scores", corrected, low, repeats, quality)]
    populations = len(task.pairs) * repeats
    batch = populations * PARTICLES
    target = task.target(energy, repeats).for_rows(0, batch, batch)
    like = torch.empty(populations, PARTICLES, *SHAPE)
    positive = torch.tensor([sigma for sigma in sigmas if sigma > 0])
    x = score_scaled_samples(target, 1.0, like, positive, seed=seed)
    with torch.no_grad():
        x = target(x.flatten(0, 1), float(positive[-1])).view_as(x)
    plain = "scores times γ" if task.first == task.second else "scores added"
    outcomes.append(
        Outcome(f"{plain}, no weights", None, None, None, quality(x, repeats), len(positive))
    )
    if task.first != task.second:
        result = run(task, energy, sigmas, low, repeats, seed, proposal="superdiff")
        images = quality(equally_weighted(result), repeats)
        outcomes.append(Outcome("SuperDiff AND, no weights", None, None, None, images, result.nfe))
    return outcomes
