"""The judge of samples: a classifier that saw the held-out half only, and Fréchet distances.

A perceptron 64 - 64 - 32 - 10, trained in seconds from a fixed seed on the held-out half with
noise of standard deviation 0.2 added. Its probabilities measure class adherence; its last hidden
layer is the fixed feature space of the Fréchet distance (as for FID, Heusel et al. 2017,
arXiv 1706.08500, with a classifier of digits for Inception).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edmfast.demo.data import NUM_CLASSES, Digits
from edmfast.diagnostics import frechet_distance

_NOISE = 0.2


class Judge(nn.Module):
    """Trained at construction on `held_out`, the reference of every distance; then frozen."""

    def __init__(self, held_out: Digits, *, steps: int = 400) -> None:
        super().__init__()
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
            loss.backward()
            optimiser.step()
            rate.step()

    def features(self, images: Tensor) -> Tensor:
        """images [n, 1, 8, 8] -> [n, 32]."""
        return self.hidden(images.float())

    def probabilities(self, images: Tensor) -> Tensor:
        """images [n, 1, 8, 8] -> class probabilities [n, 10]."""
        return self.classify(self.features(images)).softmax(1)

    def adherence(self, images: Tensor, label: int | Tensor) -> float:
        """Share of images [n, 1, 8, 8] taken for their label (int, or int64 [n])."""
        return float((self.probabilities(images).argmax(1) == label).double().mean())

    def frechet(self, images: Tensor) -> float:
        """Fréchet distance between images [n, 1, 8, 8] and the held-out half."""
        return frechet_distance(self.features(images), self.reference)


def diversity(images: Tensor) -> float:
    """Mean distance between two different images of [n, 1, 8, 8]: 0 where all are one."""
    return float(torch.pdist(images.flatten(1).double()).mean())
