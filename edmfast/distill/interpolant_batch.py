"""Training batches of a stochastic interpolant: samples of its base and of the data, times, and noise.

Times are uniform within [1e-4, 1 - 1e-4]: at the ends themselves gamma' of the Brownian bridge and 1/gamma are
infinite. Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edmfast._internal.generators import generator
from edmfast.distill.batch import Batch
from edmfast.distill.config import DistillConfig
from edmfast.distill.data import TrainingData
from edmfast.models.protocols import Denoiser

_FIRST_TIME = 1e-4


class InterpolantBatches:
    """A source of batches for an interpolant: x1, z like x1, and t [B]; x0 unless the path is one-sided.

    base: samples of the base [m, *shape], or None for N(0, I). paired: row k of the base belongs to row k of the
    data. With labels a batch also has class_label int64 [B]. See `BatchSource` for the attributes.
    """

    model: Denoiser | None = None

    def __init__(
        self,
        data: TrainingData,
        config: DistillConfig,
        *,
        one_sided: bool,
        base: Tensor | None = None,
        paired: bool = False,
    ) -> None:
        self.data, self.config = data, config
        self.one_sided, self.base, self.paired = one_sided, base, paired
        self.compared: tuple[str, ...] = ("x1", "z") if one_sided else ("x0", "x1", "z")
        self.generator = generator(config.seed, data.samples.device)
        self.between: Callable[[], None] = lambda: None

    def first_batch(self) -> Batch:
        """Return the compared tensors of the first batch of a run, without a change of the generator."""
        first = InterpolantBatches(
            self.data,
            self.config,
            one_sided=self.one_sided,
            base=self.base,
            paired=self.paired,
        )
        batch = first()
        return {name: batch[name] for name in self.compared}

    @torch.no_grad()
    def __call__(self, step: int = 0) -> Batch:
        """Return the next batch, on the device of the data."""
        samples, size = self.data.samples, self.config.batch_size
        # rows are drawn with replacement, so that the generator's state is the only state
        index = self._rows(len(samples), size)
        x1 = samples[index]
        batch: Batch = {"x1": x1, "z": self._normal(x1)}
        uniform = torch.rand(size, generator=self.generator, dtype=x1.dtype, device=x1.device)
        batch["t"] = _FIRST_TIME + (1 - 2 * _FIRST_TIME) * uniform
        if self.data.labels is not None:
            batch["class_label"] = self.data.labels[index]
        if self.one_sided:
            return batch
        if self.base is None:
            return batch | {"x0": self._normal(x1)}
        rows = index if self.paired else self._rows(len(self.base), size)
        return batch | {"x0": self.base[rows]}

    def _rows(self, count: int, size: int) -> Tensor:
        device = self.generator.device
        return torch.randint(count, (size,), generator=self.generator, device=device)

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(
            like.shape, generator=self.generator, dtype=like.dtype, device=like.device
        )
