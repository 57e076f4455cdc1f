"""Errors of a weighted set of samples: the distance of its energies from the truth, and the error of its log Z.

The distance compares the distributions of the energy E(x) under two sets. It is a distance on the line, so it is
exact: W2² = integral over q in [0, 1] of (F_a^-1(q) - F_b^-1(q))², with the quantile functions of the weighted
sets. It is the usual measure of Boltzmann samplers. Energies separate missing modes from bad local structure less
well than a distance in space does, but they need no alignment of symmetries.
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
    """Return the exact 2-Wasserstein distance between two weighted sets of energies.

    Source: the quantile formula of the distance on the line; all arithmetic is float64.

    Args:
        energies_a: the energies of one set [n], in nats.
        energies_b: the energies of the other set [m], in nats.
        weights_a: [n], not negative, with any positive sum; equal by default.
        weights_b: [m], of the same form.

    Returns:
        The distance in nats.

    Raises:
        ValueError: an empty set, weights of another shape, negative or without a positive finite sum, or energies
            that are not finite where they have weight. An infinite energy of weight zero is accepted.
    """
    a, until_a = _quantiles("a", energies_a, weights_a)
    b, until_b = _quantiles("b", energies_b, weights_b)
    # Both quantile functions are constant between these points, so the integral over q is an exact
    # sum.
    ends = torch.cat([until_a, until_b.to(until_a.device)]).sort().values
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    # In the middle of a step both quantile functions are constant, so rounding at its ends does no harm.
    middle = (starts + ends) / 2
    index_a = torch.searchsorted(until_a, middle).clamp(max=len(a) - 1)
    index_b = torch.searchsorted(until_b.to(until_a.device), middle).clamp(max=len(b) - 1)
    gap = a[index_a] - b.to(a.device)[index_b]
    return math.sqrt(float(((ends - starts) * gap.square()).sum()))


def log_z_error(log_z: Tensor, truth: float) -> float:
    """Return the log of the mean over populations of exp(log_z), minus the truth.

    The mean of Z over independent populations is an unbiased estimate, so its log is the natural estimate of log
    Z. Collapsed populations, with a log_z of -inf or NaN, count as Z = 0.
    Source: Del Moral 2004, "Feynman–Kac Formulae" (unbiasedness of the normaliser).

    Args:
        log_z: the log-normalisers of P populations [P], in nats.
        truth: the true log Z, in nats.

    Returns:
        The error in nats.

    Raises:
        TypeError: a truth that is no number.
        ValueError: a log_z that is not [P] with P > 0, or a truth that is not finite.
    """
    truth = as_float("truth", truth)
    if log_z.dim() != 1 or len(log_z) == 0:
        raise ValueError(f"need log_z [P], got shape {[*log_z.shape]}")
    # The default of nan_to_num would turn -inf into the lowest finite number.
    log_values = log_z.detach().double().nan_to_num(-torch.inf, torch.inf, -torch.inf)
    return float(torch.logsumexp(log_values, 0)) - math.log(len(log_z)) - truth


def _quantiles(name: str, energies: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the sorted energies that have weight, and the cumulative weight after each, which ends at 1."""
    values = energies.detach().double()
    share = torch.ones_like(values) if weights is None else weights.detach().double()
    if values.dim() != 1 or len(values) == 0 or share.shape != values.shape:
        raise ValueError(
            f"energies_{name} and weights_{name} must be [n], not empty, "
            f"got {[*values.shape]} and {[*share.shape]}"
        )
    if not (bool((share >= 0).all()) and 0 < float(share.sum()) < math.inf):
        raise ValueError(f"weights_{name} must be >= 0 with a positive finite sum")
    # An infinite energy without weight would make 0 * inf = NaN below.
    values, share = values[share > 0], share[share > 0]
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"energies_{name} must be finite where they have weight")
    order = values.argsort()
    until = share[order].cumsum(0)
    # Dividing by the last partial sum makes the end exactly 1, which the total of share need not.
    return values[order], until / until[-1]
