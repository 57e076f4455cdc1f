"""A classifier that judges samples of digits: class probabilities, and Fréchet distances in its features.

It is a perceptron 64 - 64 - 32 - 10, trained within seconds from a fixed seed. It sees only the held-out half
of the digits, with noise of standard deviation 0.2 added. The last hidden layer is the feature space of the
Fréchet distance, as Inception is for the FID. Source: Heusel et al. 2017, arXiv 1706.08500.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edmfast.demo.digits import NUM_CLASSES, Digits
from edmfast.diagnostics import frechet_distance

_NOISE = 0.2


class DigitClassifier(nn.Module):
    """A classifier that is trained when it is made, and then frozen.

    held_out: the digits that it is trained on, and the reference of every Fréchet distance. steps: of its
    training.
    """

    def __init__(self, held_out: Digits, *, steps: int = 400) -> None:
        super().__init__()
        # training must neither depend on the random state of the caller nor change it
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.hidden = nn.Sequential(
                nn.Flatten(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 32), nn.SiLU()
            )
            self.classify = nn.Linear(32, NUM_CLASSES)
            self._train(held_out, steps)
        self.requires_grad_(False)
        self.reference = self.features(held_out.images)

    def _train(self, held_out: Digits, steps: int) -> None:
        optimiser = torch.optim.AdamW(self.parameters(), lr=5e-3, weight_decay=0.05)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            noisy = held_out.images + _NOISE * torch.randn_like(held_out.images)
            logits = self.classify(self.hidden(noisy))
            loss = nn.functional.cross_entropy(logits, held_out.labels, label_smoothing=0.05)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            rate.step()

    def features(self, images: Tensor) -> Tensor:
        """Return the features [n, 32] of images [n, 1, 8, 8]."""
        features: Tensor = self.hidden(images.float())
        return features

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the class probabilities [n, 10] of images [n, 1, 8, 8]."""
        logits: Tensor = self.classify(self.features(images))
        return logits.softmax(1)

    def adherence(self, images: Tensor, label: int | Tensor) -> float:
        """Return the share of images [n, 1, 8, 8] that are classified as their label, an int or int64 [n]."""
        return float((self.probabilities(images).argmax(1) == label).double().mean())

    def frechet(self, images: Tensor) -> float:
        """Return the Fréchet distance between images [n, 1, 8, 8] and the held-out half."""
        return frechet_distance(self.features(images), self.reference)


def diversity(images: Tensor) -> float:
    """Return the mean distance between two images of [n, 1, 8, 8]; it is 0 where all images are equal."""
    return float(torch.pdist(images.flatten(1).double()).mean())
