"""The model call of the engine, with its checks made once for a run where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from edmfast.models.calling.foreign import call_denoiser
from edmfast.models.protocols import Denoiser

Evaluate = Callable[[Tensor, Tensor], Tensor]


def evaluator(model: Denoiser, extra_args: dict[str, Any] | None) -> Evaluate:
    """Return evaluate(x [B, *shape], sigma [B]) -> denoised states, a checked call of the model."""
    condition = dict(extra_args or {})

    def evaluate(x: Tensor, sigma: Tensor) -> Tensor:
        return call_denoiser(model, x, sigma, **condition)

    return evaluate
