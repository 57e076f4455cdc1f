"""Dropout whose masks depend only on the seed of a sample and on the layer.

torch draws masks from a global generator, whose state neither a checkpoint nor a compiled graph carries. Here the
k-th dropout of a step compares the counter-based normals of a sample's seed and the node k (see
`edmfast.ops.linear_combination`) with the quantile of the dropout probability. So a sample has the same mask
eagerly and compiled, on every device, and in every part of a batch. Source: Srivastava et al. 2014, "Dropout: a
simple way to prevent neural networks from overfitting".
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.redirect import current, redirected
from edmfast.ops.linear_combination.operator import linear_combination

_STREAM = 8
_STEP_STRIDE = 0x9E3779B97F4A7C15
"""The seeds of two steps are far from each other, and those of the rows of one step follow one another."""


def row_seeds(seed: int, step: int, rows: slice, device: torch.device | str = "cpu") -> Tensor:
    """Return the seeds of the masks of some rows of a training step's batch, int64 [n].

    seed: 64 bits, of the run. step: the training step. rows: the rows of the whole batch.
    """
    first = (seed + (step + 1) * _STEP_STRIDE + rows.start) % 2**64
    # the tensor is signed, so that the upper half of the seeds wraps
    signed = first - 2**64 if first >= 2**63 else first
    seeds: Tensor = torch.arange(rows.stop - rows.start, device=device) + signed
    return seeds


class SeededDropout:
    """Replacements for torch's dropout functions.

    seeds: int64 [B], one for each sample, as `row_seeds` makes them. calls: number of masks drawn so far.
    """

    def __init__(self, seeds: Tensor) -> None:
        self.seeds, self.calls = seeds, 0

    def dropout(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        """Drop single numbers, with the arguments of torch.nn.functional.dropout."""
        return self._drop(input, input.dim(), p, training, inplace)

    def dropout1d(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        """Drop whole channels of [B, C, L] or [C, L]."""
        return self._drop(input, 2 if input.dim() == 3 else 1, p, training, inplace)

    def dropout2d(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        """Drop whole channels of [B, C, H, W]."""
        # torch's dropout2d also takes three dimensions for a batch of signals
        return self._drop(input, 2, p, training, inplace)

    def dropout3d(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        """Drop whole channels of [B, C, D, H, W] or [C, D, H, W]."""
        return self._drop(input, 2 if input.dim() == 5 else 1, p, training, inplace)

    def _drop(self, input: Tensor, leading: int, p: float, training: bool, inplace: bool) -> Tensor:
        """Draw one number for each place in the first `leading` dimensions, and drop what lies below p."""
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability must lie in [0, 1], given {p}")
        if not training or p == 0 or input.dim() == 0:
            return input
        shape = input.shape[:leading]
        normal = self._normal(shape, input.device)
        # each dropout of a step has a node of its own
        self.calls += 1
        # a normal lies below its p-quantile with probability p
        threshold = NormalDist().inv_cdf(p) if p < 1 else math.inf
        kept = (normal > threshold).reshape(*shape, *[1] * (input.dim() - leading))
        scaled = torch.where(kept, input / (1 - p if p < 1 else 1), 0.0)
        # torch's in-place dropout changes its input, and modules may rely on that
        return input.copy_(scaled) if inplace else scaled

    def _normal(self, shape: torch.Size, device: torch.device) -> Tensor:
        """Return independent normals of a shape for the current call."""
        seeds, size = self.seeds, shape[0]
        if size % len(seeds):
            # the rows are no samples of the batch, so that they are counted under one seed
            seeds, groups = seeds[:1], size
        else:
            # several rows of one sample, such as the heads of attention, have its seed
            groups = len(seeds)
        rest = shape.numel() // groups if groups else 0
        # float32 for every input dtype, so that a mask does not depend on the precision
        like = torch.zeros((groups, rest), dtype=torch.float32, device=device)
        return linear_combination(
            [like],
            torch.zeros(1, dtype=torch.float64, device=device),
            seeds=seeds,
            nodes=torch.full((1,), self.calls, dtype=torch.int64, device=device),
            weights=torch.ones(1, dtype=torch.float64, device=device),
            stream=_STREAM,
        ).reshape(shape)


@contextlib.contextmanager
def seeded_dropout(seeds: Tensor) -> Iterator[SeededDropout]:
    """Let `torch.nn.functional.dropout`, dropout1d, 2d and 3d draw their masks from seeds in this context.

    Modules that call these functions are covered too. seeds: int64 [B], one for each sample, as `row_seeds` makes
    them. Inputs are [B, ...] with the sample first. Other random functions keep torch's generator: alpha dropout,
    and dropout inside torch's scaled_dot_product_attention (MultiheadAttention without weights).
    """
    seeded = SeededDropout(seeds)
    with redirected(
        dropout=seeded.dropout,
        dropout1d=seeded.dropout1d,
        dropout2d=seeded.dropout2d,
        dropout3d=seeded.dropout3d,
    ):
        yield seeded


@contextlib.contextmanager
def of_rows(seeds: Tensor | None) -> Iterator[None]:
    """Let the rows of the inputs in this context have other seeds than those of the enclosing `seeded_dropout`.

    seeds: int64 [n], one for each row of an input. The masks go on from the node of the enclosing context. None,
    and a place outside of `seeded_dropout`, change nothing.
    """
    outer = getattr(current().get("dropout"), "__self__", None)
    if seeds is None or not isinstance(outer, SeededDropout):
        yield
        return
    with seeded_dropout(seeds) as inner:
        inner.calls = outer.calls
        try:
            yield
        finally:
            outer.calls = inner.calls


@contextlib.contextmanager
def without_dropout() -> Iterator[None]:
    """Let the same functions return their inputs in this context, as in eval mode."""

    def unchanged(input: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return input

    with redirected(
        dropout=unchanged, dropout1d=unchanged, dropout2d=unchanged, dropout3d=unchanged
    ):
        yield
