"""Train small energies of a mixture in the plane, with and without the Fokker–Planck loss."""

from __future__ import annotations

import torch

from edmfast import DistillConfig, EnergyModel, distill
from edmfast.analytic import GaussianMixture
from edmfast.models import ResidualMLP

WIDTH, DEPTH = 8, 2
"""The size of a student. A larger one would leave no residual to reduce."""
SIGMA_DATA = 0.9


def teacher() -> GaussianMixture:
    """Return three modes of unequal mass and width."""
    means = [[-1.2, -0.6], [0.3, 1.0], [1.1, -0.7]]
    return GaussianMixture(means, [0.12, 0.2, 0.3], [0.5, 0.3, 0.2])


def data(count: int = 20_000) -> torch.Tensor:
    """Return samples of the mixture, [count, 2]."""
    return teacher().sample(count, seed=1).float()


def train(mode: str, weight: float, seed: int, steps: int) -> tuple[EnergyModel, float]:
    """Return a student and the training steps per second. mode: "distill" or "dsm"."""
    torch.manual_seed(seed)
    student = EnergyModel(ResidualMLP(2, WIDTH, DEPTH, embedding_width=16), sigma_data=SIGMA_DATA)
    config = DistillConfig(
        mode=mode,
        steps=steps,
        batch_size=256,
        learning_rate=3e-3,
        seed=seed,
        p_mean=-0.7,
        p_std=1.4,
        fokker_planck_weight=weight,
    )
    source = teacher() if mode == "distill" else None
    result = distill(source, student, data(), config=config, progress=False)
    return student, result.steps_per_second
