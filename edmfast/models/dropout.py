"""Dropout whose masks are a function of seed, step, layer and sample.

torch draws masks from a global generator, which neither a checkpoint nor a compiled graph carries. Here the
k-th dropout of a step compares the counter-based normals of `edmfast.ops.standard_normal` (population k,
particle: the sample) with the quantile of the dropout probability: the same mask eagerly and compiled, on
every device, and for a sample whatever the batch around it. Source: Srivastava et al. 2014, "Dropout: a
simple way to prevent neural networks from overfitting".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from edmfast.ops import standard_normal

_STREAM = 8
_TRAILING = {F.dropout: 0, F.dropout1d: 1, F.dropout2d: 2, F.dropout3d: 3}
"""Trailing dimensions that are kept or left out together."""


class SeededDropout(TorchFunctionMode):
    """While active, `torch.nn.functional.dropout` and its relatives of whole channels draw from rng, int64 [2]
    as `edmfast.ops.rng_state` makes it. calls: how many have.

    Inputs are [B, ...], sample first. Dropout inside torch's scaled_dot_product_attention, alpha dropout and
    other random functions are left to torch's generator.
    """

    def __init__(self, rng: Tensor) -> None:
        super().__init__()
        self.rng, self.calls = rng, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _TRAILING:
            return self._dropout(_TRAILING[func], *args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(
        self,
        trailing: int,
        input: Tensor,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
    ) -> Tensor:
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability must lie in [0, 1], given {p}")
        if not training or p == 0 or input.dim() == 0:
            return input
        shape = input.shape[: max(1, input.dim() - trailing)]
        like = torch.empty((1, *shape), dtype=torch.float32, device=input.device)
        normal = standard_normal(like, rng=self.rng, stream=_STREAM, first_population=self.calls)[0]
        self.calls += 1
        threshold = NormalDist().inv_cdf(p) if p < 1 else math.inf
        kept = (normal > threshold).reshape(*shape, *[1] * (input.dim() - len(shape)))
        scaled = torch.where(kept, input / (1 - p if p < 1 else 1), 0.0)
        return input.copy_(scaled) if inplace else scaled
