"""Sums over the particles of each population whose bits do not depend on how many populations there are.

torch chooses the order of a reduction by the whole shape; here it is fixed by N: halves are added
elementwise until one column is left (pairwise summation, so rounding grows with log N only).
"""

from __future__ import annotations

import torch
from torch import Tensor


def population_sum(values: Tensor) -> Tensor:
    """[P, N] -> [P]."""
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        folded = values[:, :half] + values[:, half : 2 * half]
        odd = values[:, 2 * half :]
        values = torch.cat([folded, odd], dim=1) if odd.shape[1] else folded
    return values[:, 0]


def population_mean(values: Tensor) -> Tensor:
    """[P, N] -> [P]."""
    return population_sum(values) / values.shape[1]


def population_sd(values: Tensor) -> Tensor:
    """[P, N] -> [P] over the finite values, divided by their number (NaN for none); two passes."""
    finite = values.isfinite()
    count = population_sum(finite.to(values.dtype))
    mean = population_sum(torch.where(finite, values, 0.0)) / count
    centred = torch.where(finite, values - mean[:, None], 0.0)
    return (population_sum(centred.square()) / count).sqrt()
