"""The energies of `bench.studies.control`: kernel densities of digits, exact at all levels, and their students.

Students are distilled from a kernel density as from any teacher, so that their exact energies are known. The width
is 0.25: unseen real digits are most likely under a width of 0.3, and little less under 0.25.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edmfast.demo.digits import NUM_CLASSES, SHAPE, Digits, all_digits, halves
from edmfast.demo.teacher import SIGMA_DATA, load_teacher, new_backbone
from edmfast.distill import DistillConfig, distill
from edmfast.models import EnergyModel, ResidualMLP, UNet, initialise_from, load_model, save_model

WIDTH = 0.25
_COPIES = 20


class DigitsDensity(nn.Module):
    """A Gaussian of standard deviation `width` around every image [n, *shape], with exact energy and denoiser.

    class_label int64 [B]: only images of this label count. NUM_CLASSES or no label means all images.
    """

    centre: Tensor
    means: Tensor
    labels: Tensor
    exponent = 1.0

    def __init__(self, digits: Digits, width: float) -> None:
        super().__init__()
        images = digits.images.flatten(1)
        self.register_buffer("centre", images.mean(0))
        self.register_buffer("means", images - images.mean(0))
        self.register_buffer("labels", digits.labels)
        self.width = width

    def energy_and_score(
        self, x: Tensor, sigma: float | Tensor, class_label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return (-log p(x; sigma | class_label) [B] in nats, the score shaped like x)."""
        means = self.means.to(x.dtype)
        y = x.flatten(1) - self.centre.to(x.dtype)
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1)
        variance = self.width**2 + level.square()
        squares = y.square().sum(1, keepdim=True) + means.square().sum(1)
        logits = torch.addmm(squares, y, means.T, alpha=-2) / (-2 * variance)
        count = torch.full((len(y),), float(len(means)), dtype=x.dtype, device=x.device)
        if class_label is not None:
            label = class_label[:, None]
            counted = (self.labels == label) | (label == NUM_CLASSES)
            logits = logits.masked_fill(~counted, -math.inf)
            count = counted.sum(1).to(x.dtype)
        normaliser = count.log() + 0.5 * y.shape[1] * (2 * math.pi * variance[:, 0]).log()
        score = (torch.softmax(logits, 1) @ means - y) / variance
        return normaliser - torch.logsumexp(logits, 1), score.view_as(x)

    def forward(self, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
        """Return the denoised x0, shaped like x."""
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        score = self.energy_and_score(x, sigma, **condition)[1]
        return x + level.reshape(-1, *(1,) * (x.dim() - 1)).square() * score

    def pair_draws(self, first: int, second: int, n: int, generator: torch.Generator) -> Tensor:
        """Draw n exact samples [n, *SHAPE] of p(x | first) p(x | second) at noise level 0.

        The product is a mixture of one Gaussian for each pair of images: at their mean, of half the variance,
        weighted by their distance.
        """
        a, b = (self.means[self.labels == label] for label in (first, second))
        weight = torch.softmax(torch.cdist(a, b).square().flatten() / (-4 * self.width**2), 0)
        pair = torch.multinomial(weight, n, replacement=True, generator=generator)
        middle = (a[pair // len(b)] + b[pair % len(b)]) / 2 + self.centre
        noise = torch.randn(middle.shape, generator=generator)
        return (middle + self.width / math.sqrt(2) * noise).reshape(n, *SHAPE)


@dataclass(frozen=True)
class Recipe:
    """The recipe of a student; `load_student` trains it where its file is missing."""

    name: str
    backbone: Callable[[], nn.Module]
    config: DistillConfig
    conditional: bool = True
    """True trains on labels and images [1, 8, 8] of the training half, False on all digits as vectors [64]."""
    shipped: bool = False
    """True takes the demonstration's teacher instead of a kernel density. A perceptron starts from its weights."""

    @property
    def teacher(self) -> nn.Module:
        """The model from which the student learns."""
        if self.shipped:
            return load_teacher()
        return DigitsDensity(halves()[0] if self.conditional else all_digits(), WIDTH)


def _config(steps: int, difference_weight: float, **others: Any) -> DistillConfig:
    settings: dict[str, Any] = {
        "steps": steps,
        "batch_size": 256,
        "learning_rate": 1e-3,
        "p_mean": -0.7,
        "p_std": 1.3,
        "label_dropout": 0.1,
        "betas": (0.9, 0.99),
        "ema_decay": 0.99,
        "checkpoint_every": 100,
        "difference_weight": difference_weight,
    }
    return DistillConfig(**{**settings, **others})


def _unet() -> UNet:
    return UNet(SHAPE[0], (32, 64), num_classes=NUM_CLASSES, patch=2)


def _perceptron(difference_weight: float) -> Recipe:
    spread = {"p_mean": -0.6, "p_std": 1.4, "batch_size": 512, "label_dropout": 0.0}
    return Recipe(
        f"perceptron-{difference_weight:g}",
        lambda: ResidualMLP(64, width=256, depth=4),
        _config(5000, difference_weight, **spread),
        conditional=False,
    )


UNET = Recipe("unet", _unet, _config(3000, 0.05, learning_rate=2e-3))
PERCEPTRONS = (_perceptron(0.0), _perceptron(0.05))
SHIPPED = Recipe(
    "shipped-perceptron", new_backbone, _config(2500, 0.05, batch_size=128), shipped=True
)


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
    settings = vars(recipe.config) | ({"steps": steps} if steps else {"checkpoint": checkpoint})
    teacher = recipe.teacher
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = EnergyModel(recipe.backbone(), sigma_data=SIGMA_DATA)
        data = _data(recipe)
    if recipe.shipped and isinstance(student.backbone, ResidualMLP):
        images, labels = data
        initialise_from(student, teacher, images[:512], class_label=labels[:512])
    resumed = checkpoint if not steps and checkpoint.exists() else None
    distill(
        teacher,
        student,
        data,
        config=DistillConfig(**settings),
        resume_from=resumed,
        progress=progress,
    )
    if not steps:
        save_model(student, path)
    return student


def _data(recipe: Recipe) -> Tensor | tuple[Tensor, Tensor]:
    """Draw from the kernel density, _COPIES for every digit; for the shipped teacher, return its digits."""
    digits = halves()[0] if recipe.conditional else all_digits()
    if recipe.shipped:
        return digits.images, digits.labels
    images = digits.images.repeat(_COPIES, 1, 1, 1)
    images = images + WIDTH * torch.randn_like(images)
    return (images, digits.labels.repeat(_COPIES)) if recipe.conditional else images.flatten(1)
