"""A linear combination and a copy of one of its tensors, which need one pass where the door of the CPU is open."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edmfast.ops.linear_combination.operator import DOOR, linear_combination


def combine_and_copy(
    tensors: Sequence[Tensor], coefficients: Tensor | Sequence[float], copied: int
) -> tuple[Tensor, Tensor]:
    """Return (linear_combination(tensors, coefficients), a copy of tensors[copied] in memory of its own)."""
    if DOOR is not None and not torch.compiler.is_dynamo_compiling():
        pair: tuple[Tensor, Tensor] | None = DOOR(
            tensors, coefficients, None, None, None, 0, 0, copied
        )
        if pair is not None:
            return pair
    return linear_combination(tensors, coefficients), tensors[copied].clone()
