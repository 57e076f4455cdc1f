"""Dropout whose masks depend only on seed, step, layer and sample.

torch draws masks from a global generator, whose state neither a checkpoint nor a compiled graph carries. Here the
k-th dropout of a step compares the counter-based normals of `edmfast.ops.standard_normal` (population k, particle
= sample) with the quantile of the dropout probability. So a sample has the same mask eagerly and compiled, on
every device, and in every batch. Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks
from overfitting".
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from statistics import NormalDist

import torch
from torch import Tensor

from edmfast._internal.redirect import redirected
from edmfast.ops import standard_normal

_STREAM = 8


class SeededDropout:
    """Replacements for torch's dropout functions.

    rng: int64 [2], as `edmfast.ops.rng_state` makes it. calls: number of masks drawn so far.
    """

    def __init__(self, rng: Tensor) -> None:
        self.rng, self.calls = rng, 0

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
        # float32 for every input dtype, so that a mask does not depend on the precision
        like = torch.empty((1, *shape), dtype=torch.float32, device=input.device)
        normal = standard_normal(like, rng=self.rng, stream=_STREAM, first_population=self.calls)[0]
        # each dropout of a step is its own population of the counter-based generator
        self.calls += 1
        # a normal lies below its p-quantile with probability p
        threshold = NormalDist().inv_cdf(p) if p < 1 else math.inf
        kept = (normal > threshold).reshape(*shape, *[1] * (input.dim() - leading))
        scaled = torch.where(kept, input / (1 - p if p < 1 else 1), 0.0)
        # torch's in-place dropout changes its input, and modules may rely on that
        return input.copy_(scaled) if inplace else scaled


@contextlib.contextmanager
def seeded_dropout(rng: Tensor) -> Iterator[SeededDropout]:
    """Let `torch.nn.functional.dropout`, dropout1d, 2d and 3d draw their masks from rng in this context.

    Modules that call these functions are covered too. rng: int64 [2], as `edmfast.ops.rng_state` makes it. Inputs
    are [B, ...] with the sample first. Other random functions keep torch's generator: alpha dropout, and dropout
    inside torch's scaled_dot_product_attention (MultiheadAttention without weights).
    """
    seeded = SeededDropout(rng)
    with redirected(
        dropout=seeded.dropout,
        dropout1d=seeded.dropout1d,
        dropout2d=seeded.dropout2d,
        dropout3d=seeded.dropout3d,
    ):
        yield seeded
