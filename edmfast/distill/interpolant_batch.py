"""Training batches of a stochastic interpolant: samples of its base and of the data, times, and noise.

Times are uniform within [1e-4, 1 - 1e-4]: at the ends themselves gamma' of the Brownian bridge and 1/gamma are
infinite. Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edmfast._internal.generators import generator
from edmfast.distill.batch import Batch
from edmfast.distill.config import DistillConfig
from edmfast.distill.data import TrainingData
from edmfast.models.protocols import Denoiser

_FIRST_TIME = 1e-4


class InterpolantDraws(NamedTuple):
    """The random draws of a batch: the rows of data and base, z and perhaps x0 [B, *shape], and the times [B]."""

    data_rows: Any
    z: Tensor
    t: Tensor
    base_rows: Tensor | None
    x0: Tensor | None


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
        self.generator = generator(config.seed, data.device)
        self.between: Callable[[], None] = lambda: None

    def first_batch(self, rows: int) -> Batch:
        """Return the compared tensors of the first rows of the first batch; the generator is not used."""
        first = InterpolantBatches(
            self.data,
            self.config,
            one_sided=self.one_sided,
            base=self.base,
            paired=self.paired,
        )
        batch = first.part(first.draw(0), slice(0, rows))
        return {name: batch[name] for name in self.compared}

    def __call__(self, step: int = 0) -> Batch:
        """Return the next whole batch, on the device of the data."""
        return self.part(self.draw(step), slice(0, self.config.batch_size))

    @torch.no_grad()
    def draw(self, step: int) -> InterpolantDraws:
        """Return the draws of the next batch. step: the training step."""
        size, data = self.config.batch_size, self.data
        rows = data.draw(step, size, self.generator)
        z = self._normal(size)
        t = torch.rand(size, generator=self.generator, dtype=data.dtype, device=data.device)
        t = _FIRST_TIME + (1 - 2 * _FIRST_TIME) * t
        base_rows = x0 = None
        if not self.one_sided:
            if self.base is None:
                x0 = self._normal(size)
            elif self.paired:
                base_rows = rows
            else:
                base_rows = torch.randint(
                    len(self.base), (size,), generator=self.generator, device=data.device
                )
        return InterpolantDraws(rows, z, t, base_rows, x0)

    @torch.no_grad()
    def part(self, drawn: InterpolantDraws, rows: slice) -> Batch:
        """Return the batch of some rows."""
        x1, labels = self.data.rows(drawn.data_rows, rows)
        batch: Batch = {"x1": x1, "z": drawn.z[rows], "t": drawn.t[rows]}
        if labels is not None:
            batch["class_label"] = labels
        if drawn.x0 is not None:
            batch["x0"] = drawn.x0[rows]
        elif drawn.base_rows is not None:
            assert self.base is not None
            batch["x0"] = self.base[drawn.base_rows[rows]]
        return batch

    def _normal(self, size: int) -> Tensor:
        return torch.randn(
            (size, *self.data.shape),
            generator=self.generator,
            dtype=self.data.dtype,
            device=self.data.device,
        )
