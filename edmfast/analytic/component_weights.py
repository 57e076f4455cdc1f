"""The weights of the components of a mixture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from edmfast._internal.numbers import as_numbers


def as_weights(
    weights: torch.Tensor | Sequence[Any] | None, components: int, device: torch.device
) -> torch.Tensor:
    """Return the weights of a mixture, float64 [K] with sum 1; None means equal weights.

    Raises ValueError for another shape, for negative weights, and for a sum that is not positive.
    """
    if weights is None:
        weights = torch.full((components,), 1 / components)
    weights = as_numbers("weights", weights).to(device)
    if weights.shape != (components,):
        raise ValueError(f"weights must be [K] = [{components}], given {[*weights.shape]}")
    if (weights < 0).any() or weights.sum() <= 0:
        raise ValueError(
            f"weights must not be negative and their sum must be positive, given a smallest value of "
            f"{weights.min():g} and a sum of {weights.sum():g}"
        )
    # finite weights may overflow in their sum
    if weights.sum() == math.inf:
        weights = weights / weights.max()
    return weights / weights.sum()
