"""Training batches of pairwise sample optimisation on given pairs of a better and a worse sample.

A batch has x = x_0 + sigma n for both samples of a pair, with one level and one noise, and the reference's
answers. Source: Miao et al. 2024, arXiv 2410.03190.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edmfast._internal.checksum import checksum
from edmfast._internal.generators import generator
from edmfast.distill.batch import Batch
from edmfast.distill.config import DistillConfig
from edmfast.distill.data import TrainingData
from edmfast.distill.objectives.reference import Reference, evaluated
from edmfast.models.protocols import Denoiser


@dataclasses.dataclass(frozen=True)
class Preferences:
    """Pairs of samples: both [n, 2, *shape], of which the first of two is the winner; labels int64 [n] or None."""

    both: Tensor
    labels: Tensor | None
    num_classes: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.both.shape[2:])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the samples."""
        return self.both.dtype

    @property
    def device(self) -> torch.device:
        """The device of the samples."""
        return self.both.device

    @property
    def size(self) -> int:
        """The number of pairs."""
        return len(self.both)

    @property
    def has_labels(self) -> bool:
        """True where there are labels."""
        return self.labels is not None

    def draw(self, step: int, count: int, generator: torch.Generator) -> Tensor:
        """Return the indices of `count` random pairs, drawn with replacement."""
        return torch.randint(self.size, (count,), generator=generator, device=generator.device)

    def rows(self, drawn: Tensor, part: slice) -> tuple[Tensor, Tensor | None]:
        """Return the pairs [n, 2, *shape] of a part of the indices, and their labels or None."""
        index = drawn[part]
        return self.both[index], None if self.labels is None else self.labels[index]

    def some(self, count: int) -> Tensor:
        """Return the first winners, up to count of them."""
        return self.both[:count, 0]

    def digest(self) -> str:
        """Return a checksum of all pairs."""
        tensors = {"both": self.both.cpu()}
        if self.labels is not None:
            tensors["labels"] = self.labels.cpu()
        return checksum(tensors, "")[:32]


class OfflineDraws(NamedTuple):
    """The draws of B pairs: which ones, the levels sigma [B], and the noise [B, *shape] of both samples."""

    pairs: Tensor
    sigma: Tensor
    noise: Tensor


class OfflineBatches:
    """A source of noised pairs, as `OfflinePSOLoss` takes them.

    levels: the positive levels of the model's steps, of which each pair takes one; None draws levels as the
    configuration says. reference: None where the loss needs none.
    """

    model: Denoiser | None = None

    def __init__(
        self,
        data: Preferences,
        student: nn.Module,
        reference: Reference | None,
        levels: list[float] | None,
        config: DistillConfig,
    ) -> None:
        self.data: TrainingData = data
        self.pairs, self.student, self.reference = data, student, reference
        self.levels, self.config = levels, config
        self.compared: tuple[str, ...] = ("x",) if reference is None else ("x", "reference")
        self.generator = generator(config.seed, data.device)
        self.between: Callable[[], None] = lambda: None

    def first_batch(self, rows: int) -> Batch:
        """Return the compared tensors of the first rows of the first batch; the generator is not used."""
        first = OfflineBatches(self.pairs, self.student, self.reference, self.levels, self.config)
        batch = first.part(first.draw(0), slice(0, rows))
        return {name: batch[name] for name in self.compared}

    @torch.no_grad()
    def draw(self, step: int) -> OfflineDraws:
        """Return the draws of the next batch. step: the training step."""
        data, config = self.data, self.config
        options: Any = {"generator": self.generator, "device": data.device}
        pairs = data.draw(step, config.batch_size, self.generator)
        if self.levels is None:
            normal = torch.randn(config.batch_size, dtype=data.dtype, **options)
            sigma = (config.p_mean + config.p_std * normal).exp()
        else:
            which = torch.randint(len(self.levels), (config.batch_size,), **options)
            sigma = torch.tensor(self.levels, dtype=data.dtype, device=data.device)[which]
        noise = torch.randn(config.batch_size, *data.shape, dtype=data.dtype, **options)
        return OfflineDraws(pairs, sigma, noise)

    @torch.no_grad()
    def part(self, drawn: OfflineDraws, rows: slice) -> Batch:
        """Return the batch of some rows."""
        target, labels = self.data.rows(drawn.pairs, rows)
        sigma, noise = drawn.sigma[rows], drawn.noise[rows]
        both_levels = sigma.repeat_interleave(2)
        # one noise for both samples of a pair, so that less of it stays in the difference of their losses
        added = noise * sigma.reshape(-1, *[1] * (noise.dim() - 1))
        batch: Batch = {"x": target + added[:, None], "target": target, "sigma": sigma}
        condition: dict[str, Tensor] = {}
        if labels is not None:
            batch["class_label"] = labels
            condition = {"class_label": labels.repeat_interleave(2)}
        if self.reference is not None:
            with evaluated(self.student):
                answer = self.reference(batch["x"].flatten(0, 1), both_levels, **condition)
            batch["reference"] = answer.view(target.shape)
        return batch
