"""How far a weighted set of samples is from the truth: by its energies, and by its normaliser.

The distance of the laws of the energy E(x) under two sets is a distance on the line, so it is exact:
W2² = integral over q in [0, 1] of (F_a^-1(q) - F_b^-1(q))², with quantile functions of weighted sets. It is
the usual measure of Boltzmann samplers, whose energies tell missing modes and bad local structure apart
less than a distance in space but need no alignment of symmetries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float


def energy_wasserstein(
    energies_a: Tensor,
    energies_b: Tensor,
    weights_a: Tensor | None = None,
    weights_b: Tensor | None = None,
) -> float:
    """Exact 2-Wasserstein distance between two weighted sets of energies, in nats.

    energies: [n] and [m]; weights: of the same sizes, not negative, any scale, equal where omitted. All
    arithmetic is float64. Raises ValueError for empty sets, non-finite energies or bad weights; an energy
    of infinity is accepted where its weight is zero.
    """
    a, until_a = _quantiles("a", energies_a, weights_a)
    b, until_b = _quantiles("b", energies_b, weights_b)
    ends = torch.cat([until_a, until_b.to(until_a.device)]).sort().values
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    middle = (starts + ends) / 2
    index_a = torch.searchsorted(until_a, middle).clamp(max=len(a) - 1)
    index_b = torch.searchsorted(until_b.to(until_a.device), middle).clamp(max=len(b) - 1)
    gap = a[index_a] - b.to(a.device)[index_b]
    return math.sqrt(float(((ends - starts) * gap.square()).sum()))


def log_z_error(log_z: Tensor, truth: float) -> float:
    """log of the mean over populations of exp(log_z) [P], minus the truth, in nats. -inf and NaN (collapsed
    populations) count as Z = 0. ValueError unless log_z is [P] with P > 0 and the truth finite."""
    truth = as_float("truth", truth)
    if log_z.dim() != 1 or len(log_z) == 0:
        raise ValueError(f"need log_z [P], got shape {[*log_z.shape]}")
    finite = log_z.detach().double().nan_to_num(-torch.inf, torch.inf, -torch.inf)
    return float(torch.logsumexp(finite, 0)) - math.log(len(log_z)) - truth


def _quantiles(name: str, energies: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sorted energies that have weight, and the cumulative weight at the end of each, ending in 1."""
    values = energies.detach().double()
    share = torch.ones_like(values) if weights is None else weights.detach().double()
    if values.dim() != 1 or len(values) == 0 or share.shape != values.shape:
        raise ValueError(
            f"energies_{name} and weights_{name} must be [n], not empty, "
            f"got {[*values.shape]} and {[*share.shape]}"
        )
    if not (bool((share >= 0).all()) and 0 < float(share.sum()) < math.inf):
        raise ValueError(f"weights_{name} must be >= 0 with a positive finite sum")
    values, share = values[share > 0], share[share > 0]
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"energies_{name} must be finite where they have weight")
    order = values.argsort()
    until = share[order].cumsum(0)
    return values[order], until / until[-1]
