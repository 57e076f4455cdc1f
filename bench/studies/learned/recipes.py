"""The students of `bench.studies.learned`: which loss, network, potential, start and number of steps each has.

The truth is the smooth mixture of the digits. A student learns from its exact denoiser, without its energy, or
from a denoiser that was trained on its draws.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from bench.studies.learned.rne import train_with_rne
from edmfast.demo.digits import SIGMA_DATA
from edmfast.demo.smooth_denoiser import without_classes
from edmfast.demo.smooth_digits import load_smooth_digits
from edmfast.distill import DistillConfig, distill
from edmfast.models import EnergyModel, ResidualMLP, initialise_from

DRAWS = 30_000
_SHARED: dict[str, Any] = {
    "batch_size": 128,
    "learning_rate": 2e-3,
    "betas": (0.9, 0.99),
    "ema_decay": 0.995,
    "p_mean": -0.6,
    "p_std": 1.5,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A student and its training.

    settings: those of `DistillConfig` besides the shared ones. rne: the weight of the regulariser of
    `bench.studies.learned.rne`. own_energy: let the exact teacher give its energies instead of path values, which
    no denoiser can; it shows what values without error would give.
    """

    name: str
    width: int = 128
    depth: int = 4
    potential: str = "inner"
    start: str = "zero"
    own_energy: bool = False
    rne: float = 0.0
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


class DenoiserOf(nn.Module):
    """The denoiser of an exact density, without its energy."""

    def __init__(self, density: nn.Module) -> None:
        super().__init__()
        self.density = density

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the denoised states, like x."""
        denoised: Tensor = self.density(x, sigma)
        return denoised


def train(
    recipe: Recipe, teacher: nn.Module | None, *, progress: bool, steps: int | None = None
) -> EnergyModel:
    """Return the trained student of a recipe. teacher: a learned denoiser; None takes the exact one."""
    exact = load_smooth_digits()
    draws = exact.sample(DRAWS, seed=5).float()
    settings = {**_SHARED, **recipe.settings}
    config = DistillConfig(**(settings if steps is None else {**settings, "steps": steps}))
    torch.manual_seed(0)
    backbone = ResidualMLP(64, width=recipe.width, depth=recipe.depth)
    if recipe.potential == "norm":
        # at h = 0 the potential -|h|²/2 has no gradient in the weights, so that it would stay there for ever
        torch.nn.init.xavier_uniform_(backbone.output.weight)
    student = EnergyModel(backbone, potential=recipe.potential, sigma_data=SIGMA_DATA)
    chosen = teacher if teacher is not None else DenoiserOf(exact)
    if recipe.start == "teacher":
        if teacher is None:
            raise ValueError(
                f"the student {recipe.name!r} starts from a learned teacher: pass --teacher"
            )
        initialise_from(student, chosen, draws[:512], weights_from=without_classes(teacher))
    if recipe.rne:
        return train_with_rne(student, chosen, draws, config, recipe.rne)
    distill(
        exact if recipe.own_energy else chosen, student, draws, config=config, progress=progress
    )
    return student


def _recipes() -> list[Recipe]:
    short = {"steps": 2500}
    # a student that starts from the teacher's weights keeps what they know at a lower rate
    started = {"steps": 4000, "learning_rate": 1e-3}
    return [
        Recipe("scores alone", settings=short),
        Recipe("differences .05", settings={**short, "difference_weight": 0.05}),
        Recipe("differences .001", settings={**short, "difference_weight": 1e-3}),
        Recipe("RNE .001", rne=1e-3, settings=short),
        Recipe("path values .02", settings={**short, "value_weight": 0.02}),
        Recipe("path values .0003", settings={**short, "value_weight": 3e-4}),
        Recipe(
            "residual, path values", potential="residual", settings={**short, "value_weight": 3e-4}
        ),
        Recipe("norm, path values", potential="norm", settings={**short, "value_weight": 3e-4}),
        Recipe("exact values .0003", own_energy=True, settings={**short, "value_weight": 3e-4}),
        Recipe("wide, scores alone", width=256, settings=short),
        Recipe("wide, path values", width=256, settings={**short, "value_weight": 3e-4}),
        Recipe("started, scores alone", width=256, start="teacher", settings=started),
        Recipe(
            "started, path values",
            width=256,
            start="teacher",
            settings={**started, "value_weight": 3e-4},
        ),
    ]


RECIPES = {recipe.name: recipe for recipe in _recipes()}
