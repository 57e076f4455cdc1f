"""The students of `bench.studies.distillation`: the network that all share, and what each learns from.

The teacher is the exact mixture of the smooth digits on images [1, 8, 8]. All students have one network, a small
`SongUNet` behind a folding of 2x2 pixels into channels, as `UNet(patch=2)` has it, which quarters the work. All
take the same batches for the same number of steps.

Passes count the cost of a step in forward passes of the network on one batch. A backward pass counts as two where
it gives the gradients of weights, and as one where it gives those of states only.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from edmfast.demo.digits import SIGMA_DATA
from edmfast.models import Denoiser, EnergyModel, SongUNet, TwoHeads
from edmfast.models.backbones.pixel_folding import fold, unfold

PATCH = 2
SHAPE = (1, 8, 8)
STEPS = 2500
SETTINGS: dict[str, Any] = {
    "batch_size": 128,
    "learning_rate": 2e-3,
    "betas": (0.9, 0.99),
    "ema_decay": 0.995,
    "p_mean": -0.6,
    "p_std": 1.5,
}
VALUES: dict[str, Any] = {"value_weight": 7e-4, "value_sigmas": (0.04, 2.0)}
"""The teacher knows its energy, so that values need no paths, and no levels at which the density is a Gaussian."""

FORWARD, SCORE_OF_DENOISER, SCORE_OF_ENERGY, VALUE = 1, 3, 6, 3
"""Passes: forward; forward and backward; forward, backward to the states, and both of these backward to the
weights; and forward and backward of energies alone."""


class FoldedSongUNet(nn.Module):
    """A `SongUNet` on images whose 2x2 squares of pixels are folded into channels; heads: 1 or 2."""

    def __init__(self, heads: int = 1, width: int = 32) -> None:
        super().__init__()
        channels, side = SHAPE[0] * PATCH**2, SHAPE[1] // PATCH
        self.network = SongUNet(
            side,
            channels,
            heads * channels,
            model_channels=width,
            channel_mult=(1,),
            num_blocks=1,
            attn_resolutions=(side,),
            dropout=0.0,
        )

    def start_away_from_zero(self) -> None:
        """Give the last convolution random weights.

        At h = 0 the potential -|h|²/2 has no gradient in the weights, so that it would stay there for ever.
        """
        last = [layer for layer in self.network.modules() if isinstance(layer, nn.Conv2d)][-1]
        nn.init.xavier_uniform_(last.weight)

    def forward(self, y: Tensor, c_noise: Tensor) -> Tensor:
        """Return [B, heads, 8, 8] for images y [B, 1, 8, 8]."""
        return unfold(self.network(fold(y, PATCH), c_noise), PATCH)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A student and its training.

    kind: "denoiser", "two heads", or the potential of an energy. passes: those of one step. teacher: "exact",
    "none", or the name of an earlier student that teaches this one. settings: those of `DistillConfig` besides the
    shared ones. part: the part of the steps of the others that it takes.
    """

    name: str
    kind: str
    passes: int
    teacher: str = "exact"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    part: float = 1.0

    def model(self, width: int, seed: int = 0) -> Denoiser | EnergyModel | TwoHeads:
        """Return the untrained student, the same at every call with a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = FoldedSongUNet(2 if self.kind == "two heads" else 1, width)
            if self.kind == "norm":
                backbone.start_away_from_zero()
        if self.kind == "denoiser":
            return Denoiser(backbone, sigma_data=SIGMA_DATA)
        if self.kind == "two heads":
            return TwoHeads(backbone, sigma_data=SIGMA_DATA)
        return EnergyModel(backbone, potential=self.kind, sigma_data=SIGMA_DATA)


def _recipes() -> list[Recipe]:
    energy, alone = SCORE_OF_ENERGY + VALUE, {"mode": "dsm"}
    # slopes share the passes of scores
    slopes = {"time_score_weight": 1e-3}
    return [
        Recipe("denoiser", "denoiser", SCORE_OF_DENOISER),
        Recipe("inner", "inner", energy, settings=VALUES),
        Recipe("two heads", "two heads", energy, settings={"mode": "two_heads", **VALUES}),
        Recipe("score matching", "inner", SCORE_OF_ENERGY, "none", alone),
        Recipe("norm", "norm", energy, settings=VALUES),
        Recipe("residual", "residual", energy, settings=VALUES),
        Recipe("two heads, data", "two heads", SCORE_OF_ENERGY, "none", {"mode": "two_heads"}),
        Recipe(
            "two heads, slopes",
            "two heads",
            SCORE_OF_ENERGY,
            "none",
            {"mode": "two_heads", **slopes},
        ),
        Recipe("score matching, slopes", "inner", SCORE_OF_ENERGY, "none", {**alone, **slopes}),
        Recipe("denoiser, data", "denoiser", SCORE_OF_DENOISER, "none", alone),
        # both trainings together have the passes of two heads
        Recipe(
            "two stages, data", "inner", FORWARD + SCORE_OF_ENERGY, "denoiser, data", part=3 / 7
        ),
    ]


RECIPES = {recipe.name: recipe for recipe in _recipes()}
