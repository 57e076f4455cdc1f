"""Measure what keeps students without a teacher from the energies of taught ones.

    python -m bench.studies.distillation.limits out/distillation      # after the study, with its folder

Two numbers tell it, both as errors between components in nats (see `edmfast.diagnostics.energy_error`):

- refit: the mixture itself, fitted again to the data by one step of expectation maximisation from the exact
  responsibilities. It knows the form of the density, so that no network learns more from these samples.
- path values: those of the denoiser that learned from data alone (see `edmfast.distill.path_values`), and of the
  exact one. A denoiser that serves as the teacher of an energy can teach no more than they say.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.studies.distillation.measures import LEVELS
from bench.studies.distillation.recipes import RECIPES, SHAPE
from bench.studies.distillation.run import FULL
from bench.studies.distillation.training import checkpoint_of
from edmfast._internal.tables import Section, render
from edmfast.analytic import MixtureOfGaussians
from edmfast.demo.smooth_digits import load_smooth_digits
from edmfast.diagnostics import energy_error
from edmfast.diagnostics.energy_error import between_components
from edmfast.distill import DistillConfig, load_ema
from edmfast.distill.data import TensorData
from edmfast.distill.frozen_teacher import FrozenTeacher
from edmfast.distill.path_values import make_pool
from edmfast.models.protocols import Denoiser

PATHS = 2048
SIGMAS = (LEVELS[0], 20.0)


def refit(samples: torch.Tensor) -> MixtureOfGaussians:
    """Return the mixture whose weights, means and covariances are those of the samples [n, 64]."""
    exact = load_smooth_digits()
    parts = samples.split(20_000)
    shares = torch.cat([exact.responsibilities(part, 1e-3) for part in parts])
    counts = shares.sum(0)
    means = shares.T @ samples / counts[:, None]
    covariances = torch.stack(
        [
            ((samples - mean) * share[:, None]).T @ (samples - mean) / count
            for mean, share, count in zip(means, shares.unbind(1), counts, strict=True)
        ]
    )
    return MixtureOfGaussians(means, covariances, counts / len(samples))


def errors_of_path_values(denoiser: Denoiser, paths: int) -> list[float]:
    """Return the errors between components of a denoiser's path values at LEVELS."""
    exact = load_smooth_digits()
    samples = exact.sample(paths, seed=77).float().reshape(-1, *SHAPE)
    config = DistillConfig(value_weight=1.0, value_paths=paths, value_sigmas=SIGMAS)
    teacher = FrozenTeacher(denoiser, config, 0)
    pool = make_pool(TensorData(samples, None, 0), teacher, config, 0, lambda: None)
    found = []
    for level in LEVELS:
        index = int((pool.sigmas - level).abs().argmin())
        sigma = float(pool.sigmas[index])
        x = pool.states(pool.sigmas[index]).double()
        error = pool.values[index].double() + exact.energy(x, sigma)
        found.append(between_components(error, exact.responsibilities(x, sigma)))
    return found


def exact_denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return the denoised states of the exact mixture in the dtype of x."""
    denoised: torch.Tensor = load_smooth_digits()(x.double(), sigma).to(x.dtype)
    return denoised


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the errors. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.distillation.limits")
    parser.add_argument("students", metavar="FOLDER", type=Path, help="the folder of the study")
    parser.add_argument("--paths", type=int, default=PATHS, help=f"paths (default {PATHS})")
    options = parser.parse_args(arguments)
    exact, found = load_smooth_digits(), {}
    for count in (FULL.data, 10 * FULL.data):
        fitted = refit(exact.sample(count, seed=5))
        errors = energy_error(fitted, exact, LEVELS, count=FULL.more, seed=20)
        found[f"mixture fitted to {count} samples"] = errors.between.tolist()
    learned = RECIPES["denoiser, data"]
    model = learned.model(FULL.width)
    load_ema(checkpoint_of(learned, options.students, 0), model)
    found["path values of the denoiser from data"] = errors_of_path_values(
        model.eval(), options.paths
    )
    found["path values of the exact denoiser"] = errors_of_path_values(
        exact_denoiser, options.paths
    )
    header = ["nats between components", *(f"σ={level:g}" for level in LEVELS)]
    cells = [[name, *(f"{value:.2f}" for value in values)] for name, values in found.items()]
    print(render([Section("limits of students without a teacher", header, cells, [])]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
