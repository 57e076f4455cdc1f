"""Tables on all digits for `bench.studies.control`: the variance of log-weights by kernel, steps and energy."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench.studies.control.models import WIDTH, DigitsDensity
from edmfast import smc
from edmfast.demo.digits import all_digits
from edmfast.demo.table import Section
from edmfast.sampling import get_sigmas_karras
from edmfast.smc.feynman_kac.choose import MixedModelsWarning
from edmfast.targets import ProposedBy, Tempered

SIGMA_MIN, SIGMA_MAX = 0.05, 20.0
EXPONENTS = (1.0, 2.0)
SPLIT = 0.3
_NARROW = 0.15
_SHAPE = (64,)


def karras(steps: int) -> Tensor:
    """Return steps + 1 positive levels."""
    return get_sigmas_karras(steps + 1, SIGMA_MIN, SIGMA_MAX)[:-1]


def plus_minus(values: Tensor) -> str:
    """Format mean ± standard error of [n]; a single value as it is."""
    mean = f"{float(values.double().mean()):.3g}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {float(values.double().std() / math.sqrt(len(values))):.2g}"


def variance(run: smc.Particles, low: float = 0.0, high: float = math.inf) -> Tensor:
    """Return the total variance [P] of log G in nats² over the steps that end in [low, high), without the
    start."""
    ends = run.sigmas[run.sigmas > 0]
    counted = (ends >= low) & (ends < high)
    counted[0] = False
    return run.log_weight_sd[counted].square().sum(0)


def distinct(run: smc.Particles) -> Tensor:
    """Count the digits that are nearest to one of the particles, for each population: float64 [P]."""
    images = all_digits().images.flatten(1).double()
    nearest = [torch.cdist(x.flatten(1).double(), images).argmin(1) for x in run.x]
    return torch.tensor([float(len(labels.unique())) for labels in nearest])


def _row(run: smc.Particles) -> list[str]:
    return [
        plus_minus(variance(run)),
        f"{float(run.log_weight_sd[1:].median()):.2f}",
        f"{float(run.resampled.double().sum(0).mean()):.1f}",
        plus_minus(distinct(run)),
    ]


def exact_section(particles: int, populations: int, steps: tuple[int, ...], seed: int) -> Section:
    """Tabulate kernels on exact energies of width 0.15, and the equalised schedule."""
    density = DigitsDensity(all_digits(), _NARROW)
    rows = []
    for exponent in EXPONENTS:
        target = Tempered(density, exponent)
        for count in steps:
            levels = karras(count)
            pilot = min(1000, particles)
            fitted = smc.calibrate(target, _SHAPE, levels, particles=pilot, seed=seed + 1)
            kernels: list[tuple[str, Any]] = [
                (name, levels)
                for name in ("euler", "ancestral", "noise_matched", "curvature_matched")
            ]
            for name, sigmas in [*kernels, ("curvature_matched, equalised", fitted)]:
                run = smc.sample(
                    target,
                    _SHAPE,
                    sigmas,
                    particles=particles,
                    populations=populations,
                    proposal=name.split(",")[0],
                    seed=seed,
                )
                rows.append([f"A = {exponent:g}, {count} steps: {name}", *_row(run)])
    header = ["target: kernel", "total var log G", "median sd", "resampled", "digits left"]
    title = (
        f"exact energies: kernel density of all digits, width {_NARROW:g}, {particles} particles, "
        f"{populations} populations"
    )
    return Section(title, header, rows)


def learned_section(
    students: dict[str, Any], particles: int, populations: int, seed: int
) -> Section:
    """Tabulate exact against distilled energies, and the weights of one with the proposal of another."""
    exact = DigitsDensity(all_digits(), WIDTH)
    rows = []
    for exponent in EXPONENTS:
        for name, weights, proposal in _pairs(exact, students):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", MixedModelsWarning)
                target: Tempered | ProposedBy = Tempered(weights, exponent)
                if proposal is not weights:
                    target = ProposedBy(target, Tempered(proposal, exponent))
                run = smc.sample(
                    target,
                    _SHAPE,
                    karras(32),
                    particles=particles,
                    populations=populations,
                    seed=seed,
                )
            parts = [variance(run, SPLIT), variance(run, 0.0, SPLIT), distinct(run)]
            rows.append([f"A = {exponent:g}: {name}", *map(plus_minus, parts)])
    header = ["weights / proposal", f"var, σ ≥ {SPLIT:g}", f"var, σ < {SPLIT:g}", "digits left"]
    title = (
        f"distilled energies: perceptrons on a kernel density of width {WIDTH:g}, 32 steps, "
        f"{particles} particles, {populations} populations"
    )
    return Section(title, header, rows)


def _pairs(exact: Any, students: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    yield "exact / exact", exact, exact
    for name, student in students.items():
        yield f"{name} / same", student, student
    name, student = list(students.items())[-1]
    yield f"{name} / exact", student, exact
    yield f"exact / {name}", exact, student
