"""Distilled energies for `bench.studies.control`: the variance of their log-weights against that of exact ones.

Students are perceptrons, distilled from a kernel density of the digits as from any teacher, so that their exact
energy is known. The width is 0.25: unseen real digits are most likely under a width of 0.3, and little less under
0.25. Only variances are compared, since a network does not learn the spikes of a kernel density.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.studies.control.comparison import mean_and_error
from bench.studies.control.laws import levels
from edmfast import smc
from edmfast._internal.tables import Section
from edmfast.analytic import GaussianMixture
from edmfast.demo.digits import SIGMA_DATA, all_digits
from edmfast.distill import DistillConfig, distill
from edmfast.models import EnergyModel, ResidualMLP, load_model, save_model
from edmfast.smc.feynman_kac.choose import MixedModelsWarning
from edmfast.targets import ProposedBy, Tempered

WIDTH = 0.25
SPLIT = 0.3
_COPIES = 20
_STEPS = 32


def kernel_density() -> GaussianMixture:
    """Return a Gaussian of standard deviation WIDTH around every digit, as vectors [64]."""
    images = all_digits().images.flatten(1).double()
    return GaussianMixture(images, [WIDTH] * len(images))


@dataclass(frozen=True)
class Recipe:
    """The recipe of a student; `load_student` trains it where its file is missing."""

    difference_weight: float

    @property
    def name(self) -> str:
        return f"perceptron-{self.difference_weight:g}"

    def config(self, **settings: Any) -> DistillConfig:
        usual: dict[str, Any] = {
            "steps": 5000,
            "batch_size": 512,
            "learning_rate": 1e-3,
            "p_mean": -0.6,
            "p_std": 1.4,
            "label_dropout": 0.0,
            "betas": (0.9, 0.99),
            "ema_decay": 0.99,
            "checkpoint_every": 100,
            "difference_weight": self.difference_weight,
        }
        return DistillConfig(**{**usual, **settings})


PERCEPTRONS = (Recipe(0.0), Recipe(0.05))


def load_student(
    recipe: Recipe, folder: Path, *, steps: int = 0, progress: bool = True
) -> nn.Module:
    """Load a student from the folder, or train it there now, which takes minutes; interrupted training goes on.

    steps: fewer steps, for a quick look; such a student is not kept.
    """
    path = folder / f"{recipe.name}.safetensors"
    if not steps and path.exists():
        return load_model(path)
    checkpoint = path.with_suffix(".checkpoint.safetensors")
    config = recipe.config(**({"steps": steps} if steps else {"checkpoint": checkpoint}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = EnergyModel(ResidualMLP(64, width=256, depth=4), sigma_data=SIGMA_DATA)
        images = all_digits().images.flatten(1).repeat(_COPIES, 1)
        data = images + WIDTH * torch.randn_like(images)
    resumed = checkpoint if not steps and checkpoint.exists() else None
    distill(
        kernel_density(),
        student,
        data,
        config=config,
        resume_from=resumed,
        progress=progress,
    )
    if not steps:
        save_model(student, path)
    return student


def variance(run: smc.Particles, low: float = 0.0, high: float = math.inf) -> Tensor:
    """Return the total variance [P] of log G in nats² over the steps that end in [low, high), without the
    start."""
    ends = run.sigmas[run.sigmas > 0]
    counted = (ends >= low) & (ends < high)
    counted[0] = False
    return run.log_weight_sd[counted].square().sum(0)


def section(students: dict[str, Any], particles: int, populations: int, seed: int) -> Section:
    """Tabulate exact against distilled energies, and the weights of one with the proposal of another."""
    rows = []
    for exponent in (1.0, 2.0):
        for name, weights, proposal in _pairs(kernel_density(), students):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", MixedModelsWarning)
                target: Tempered | ProposedBy = Tempered(weights, exponent)
                if proposal is not weights:
                    target = ProposedBy(target, Tempered(proposal, exponent))
                run = smc.sample(
                    target,
                    (64,),
                    levels(_STEPS),
                    particles=particles,
                    populations=populations,
                    seed=seed,
                    options=smc.RunOptions(dtype=torch.float32),
                )
            kept = 100 * run.unique_ancestors.double() / particles
            parts = [variance(run, SPLIT), variance(run, 0.0, SPLIT), kept]
            rows.append(
                [f"A = {exponent:g}: {name}", *(mean_and_error(part.tolist()) for part in parts)]
            )
    header = ["weights / proposal", f"var, σ ≥ {SPLIT:g}", f"var, σ < {SPLIT:g}", "ancestors %"]
    title = (
        f"distilled energies: perceptrons on a kernel density of width {WIDTH:g}, {_STEPS} steps, "
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
