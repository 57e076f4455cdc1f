"""The training data of pairwise sample optimisation on the model's own samples: class labels, or nothing."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from edmfast._internal.checksum import checksum


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The labels from which conditions are drawn, int64 [n], or None; and what the samples look like.

    num_classes: 0 where the student does not say how many there are.
    """

    labels: Tensor | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    num_classes: int = 0

    @property
    def size(self) -> int:
        """The number of labels, 1 where there are none."""
        return 1 if self.labels is None else len(self.labels)

    @property
    def has_labels(self) -> bool:
        """True where there are labels."""
        return self.labels is not None

    def draw(self, step: int, count: int, generator: torch.Generator) -> Tensor:
        """Return the indices of `count` random labels, drawn with replacement."""
        return torch.randint(self.size, (count,), generator=generator, device=generator.device)

    def rows(self, drawn: Tensor, part: slice) -> tuple[Tensor, Tensor | None]:
        """Return empty samples of a part of the indices, since there is no data, and their labels or None."""
        index = drawn[part]
        empty = torch.empty(len(index), *self.shape, dtype=self.dtype, device=self.device)
        return empty, None if self.labels is None else self.labels[index]

    def some(self, count: int) -> Tensor:
        """Return no samples, since there is no data."""
        return torch.empty(0, *self.shape, dtype=self.dtype, device=self.device)

    def digest(self) -> str:
        """Return a checksum of the labels."""
        labels = {} if self.labels is None else {"labels": self.labels.cpu()}
        return checksum(labels, f"{self.shape}")[:32]
