"""Sums over the particles of each population, whose bits do not depend on the number of populations.

torch chooses the order of a reduction from the whole shape. Here N alone fixes the order: the second half of the
columns is added to the first until one column is left. Rounding errors of such pairwise sums grow with log N.
"""

from __future__ import annotations

import torch
from torch import Tensor


def population_sum(values: Tensor) -> Tensor:
    """Return the sum [P] of values [P, N] over the particles of each population."""
    while values.shape[1] > 1:
        # an odd column is carried to the next round
        half = values.shape[1] // 2
        folded = values[:, :half] + values[:, half : 2 * half]
        odd = values[:, 2 * half :]
        values = torch.cat([folded, odd], dim=1) if odd.shape[1] else folded
    return values[:, 0]


def population_mean(values: Tensor) -> Tensor:
    """Return the mean [P] of values [P, N] over the particles of each population."""
    return population_sum(values) / values.shape[1]


def population_sd(values: Tensor) -> Tensor:
    """Return the standard deviation [P] of the finite values among values [P, N], in two passes.

    The sum of squares is divided by the number of finite values. A population without any gives NaN.
    """
    finite = values.isfinite()
    count = population_sum(finite.to(values.dtype))
    mean = population_sum(torch.where(finite, values, 0.0)) / count
    centred = torch.where(finite, values - mean[:, None], 0.0)
    return (population_sum(centred.square()) / count).sqrt()
