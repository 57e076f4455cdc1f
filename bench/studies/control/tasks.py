"""The tasks of `bench.studies.control.images`, and the quality of the images.

The targets of a kernel density are known: p(x | a) p(x | b) is a mixture of one Gaussian for each pair of images.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from bench.studies.control.digits import plus_minus
from bench.studies.control.models import DigitsDensity
from edmfast.demo.classifier import DigitClassifier, diversity
from edmfast.demo.controlled_run import with_class_labels
from edmfast.demo.digits import NUM_CLASSES
from edmfast.demo.part_composition import PAIRS
from edmfast.diagnostics import frechet_distance
from edmfast.targets import Product, Tempered

PARTICLES, GAMMA = 64, 2.0
_TRUTH = 1000


@dataclasses.dataclass(frozen=True)
class Task:
    """The product of the classes first[p] and second[p] for each population; where they agree, γ = 2."""

    name: str
    first: tuple[int, ...]
    second: tuple[int, ...]

    def target(self, energy: Any, repeats: int = 1) -> Any:
        """Return a target with a population for each pair of classes, all of them `repeats` times."""
        if self.first == self.second:
            return Tempered(with_class_labels(energy, self.first * repeats), GAMMA)
        return Product(
            [with_class_labels(energy, labels * repeats) for labels in (self.first, self.second)]
        )

    def truth(self, density: DigitsDensity, seed: int) -> list[Tensor]:
        """Return exact draws of every target, [n, *SHAPE] each."""
        generator = torch.Generator().manual_seed(seed)
        return [density.pair_draws(a, b, _TRUTH, generator) for a, b in self.pairs]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [*zip(self.first, self.second, strict=True)]


POWER = Task(f"p(x | c)^{GAMMA:g}", (*range(NUM_CLASSES),), (*range(NUM_CLASSES),))
PRODUCT = Task("p(x | a) p(x | b)", *zip(*PAIRS, strict=True))
TASKS = (POWER, PRODUCT)


class Quality:
    """Measure images against exact draws of the targets of a kernel density."""

    def __init__(self, task: Task, density: DigitsDensity, judge: DigitClassifier) -> None:
        self.task, self.judge = task, judge
        truth = task.truth(density, seed=5)
        self.features = judge.features(torch.cat(truth))
        self.spread = [diversity(images[:200]) for images in truth]
        self.of_truth = self(
            torch.stack([images[:PARTICLES] for images in task.truth(density, 6)]), 1
        )

    def __call__(self, images: Tensor, repeats: int) -> list[str]:
        """Map images [P, N, *SHAPE] to match, diversity and Fréchet distance, with errors over the repeats."""
        match, spread, distance = [], [], []
        for group in images.chunk(repeats):
            logs = self.judge.probabilities(group.flatten(0, 1)).log().view(*group.shape[:2], -1)
            both = zip(logs, self.task.pairs, strict=True)
            means = [(log[:, a] + log[:, b]).div(2).exp().mean() for log, (a, b) in both]
            match.append(float(torch.stack(means).mean()))
            pairs = zip(group, self.spread, strict=True)
            spread.append(
                sum(diversity(images_of_group) / whole for images_of_group, whole in pairs)
            )
            features = self.judge.features(group.flatten(0, 1))
            distance.append(float(frechet_distance(features, self.features)))
        count = len(self.task.pairs)
        numbers = [torch.tensor(match), torch.tensor(spread) / count, torch.tensor(distance)]
        return [*map(plus_minus, numbers)]
