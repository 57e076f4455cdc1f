"""Curvatures from probes, and the coefficients of the curvature-matched proposal, in plain torch and float64.

The mean over the ancestors of a population is taken by `edmfast.ops._shared.sums.population_mean`, whose order the
kernels keep.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.ops._shared.sums import population_mean


def curvature(
    products: Tensor, probes: Tensor, exponents: Tensor | None, exponent: float
) -> Tensor:
    """Return <v, (grad S) v> / (A d), float64 [P, N]; products and probes [P, N, d], exponents [P] or None."""
    power = exponent if exponents is None else exponents[:, None]
    return (products.double() * probes.double()).sum(2) / (max(products.shape[2], 1) * power)


def curvature_matched(
    curvature: Tensor,
    ancestors: Tensor,
    exponents: Tensor | None,
    exponent: float,
    levels: Tensor,
) -> Tensor:
    """Return (tau²/A, kappa tau²/A, tau²/A), float64 [P, 3]; curvature and ancestors [P, N], levels (s, u)."""
    if curvature.numel() == 0:  # no population, since each has a particle
        return curvature.new_empty((0, 3))
    mean = population_mean(curvature.gather(1, ancestors.long()))
    s, u = levels.unbind()
    tau2 = s.square() - u.square()
    # noisy probes must not make the variance too small or negative
    lowest = 0.5 * (u / s).square()
    kappa = torch.maximum(1.0 + tau2 * mean, lowest).clamp(max=1.0)
    v_l = (tau2 / (exponent if exponents is None else exponents)).expand_as(kappa)
    return torch.stack([v_l, kappa * v_l, v_l], dim=1)
