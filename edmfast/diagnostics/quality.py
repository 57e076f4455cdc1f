"""Distances between two sets of samples, and the shares of samples near known modes.

All arithmetic is float64. Sets are [n, *shape], flattened to [n, D], and the two sizes may differ.
Sources: Frechet distance of Gaussians (Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500), sliced
Wasserstein distance (Bonneel et al. 2015), maximum mean discrepancy (Gretton et al. 2012, equation 3).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_float, as_int, as_seed
from edmfast.ops import standard_normal

_DIAGNOSTICS_STREAM = 5
_DIRECTION_STEP = 2 << 30
"""The counter's step for random directions, far from the steps of trajectories, whose noise is in the states."""


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Return the squared Frechet distance between Gaussians fitted to two sets of features.

    |mu_a - mu_b|² + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) with unbiased covariances, the formula of FID. With
    C = R^T R from a QR factorisation of the centred features, the last trace is the sum of the singular values of
    R_a R_b^T, so there is no matrix root and no loss of digits for sets of low rank.
    Sources: Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500.

    Args:
        features_a: one set [n, *shape], n >= 2.
        features_b: the other set [m, *shape], m >= 2.

    Returns:
        The squared distance, in squared units of the features.

    Raises:
        ValueError: fewer than two samples, different shapes of a sample, or features that are not finite.
    """
    a, b = pair_of_sets(features_a, features_b, at_least=2)
    root_a, root_b = _covariance_factor(a), _covariance_factor(b)
    # tr (C_a C_b)^(1/2) is the sum of the singular values of R_a R_b^T.
    overlap = torch.linalg.svdvals(root_a @ root_b.T).sum()
    spread = root_a.square().sum() + root_b.square().sum() - 2 * overlap
    # Rounding may make the distance of equal sets negative.
    return max(float((a.mean(0) - b.mean(0)).square().sum() + spread), 0.0)


def sliced_wasserstein(a: Tensor, b: Tensor, *, projections: int = 256, seed: int = 0) -> float:
    """Return the sliced 2-Wasserstein distance of two sets of samples.

    It is the root mean square over random directions of the distance on the line, which is exact for the two
    empirical distributions, also for sets of unequal size.
    Source: Bonneel et al. 2015, "Sliced and Radon Wasserstein barycenters of measures".

    Args:
        a: one set [n, *shape].
        b: the other set [m, *shape].
        projections: the number of random directions, at least 1.
        seed: the seed of the directions.

    Returns:
        The distance, in units of the samples.

    Raises:
        TypeError: projections or a seed that is no integer.
        ValueError: an empty set, different shapes of a sample, values that are not finite, or projections < 1.
    """
    projections, seed = as_int("projections", projections, least=1), as_seed(seed)
    a, b = pair_of_sets(a, b)
    # A normalised normal vector is a direction uniform on the sphere.
    like = a.new_empty(1, projections, a.shape[1])
    directions = standard_normal(like, seed=seed, step=_DIRECTION_STEP, stream=_DIAGNOSTICS_STREAM)[
        0
    ]
    directions = directions / directions.norm(dim=1, keepdim=True)
    sorted_a, sorted_b = (a @ directions.T).sort(0).values, (b @ directions.T).sort(0).values
    # The quantile functions step at i/n and j/m, so in units of 1/(n m) all steps are integers.
    n, m = len(a), len(b)
    all_steps = torch.cat([torch.arange(n + 1) * m, torch.arange(m) * n])
    steps = torch.unique(all_steps)
    # Integers make the steps of both sets meet exactly, which fractions in floating point would
    # not.
    left, width = steps[:-1], steps.diff().double() / (n * m)
    left, width = left.to(a.device), width.to(a.device)
    gap = sorted_a[left // m] - sorted_b[left // n]
    return math.sqrt(float((width[:, None] * gap.square()).sum(0).mean()))


def maximum_mean_discrepancy(a: Tensor, b: Tensor, *, bandwidth: float | None = None) -> float:
    """Return the unbiased squared MMD of two sets, with the kernel exp(-|x - y|² / (2 bandwidth²)).

    The estimate may be negative. It needs memory for (n + m)² numbers.
    Source: Gretton et al. 2012, "A kernel two-sample test", equation 3.

    Args:
        a: one set [n, *shape], n >= 2.
        b: the other set [m, *shape], m >= 2.
        bandwidth: the width of the kernel in units of the samples, positive; by default the median distance within
            the pooled set.

    Returns:
        The squared discrepancy, without a unit.

    Raises:
        TypeError: a bandwidth that is no number.
        ValueError: fewer than two samples, different shapes of a sample, values that are not finite, or a
            bandwidth that is not positive, as the default is where most samples coincide.
    """
    a, b = pair_of_sets(a, b, at_least=2)
    pooled = torch.cat([a, b])
    # A matrix product would lose the digits of small distances.
    distance = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist")
    if bandwidth is None:
        # The zeros of the diagonal and the second copy of each pair would lower the median.
        i, j = torch.triu_indices(len(pooled), len(pooled), 1, device=a.device)
        bandwidth = float(distance[i, j].median())
    bandwidth = as_float("bandwidth", bandwidth, positive=True)
    check_level("bandwidth", bandwidth)
    kernel = torch.exp(-distance.square() / (2 * bandwidth**2))
    n, m = len(a), len(b)
    # The n entries of the diagonal are exp(0) = 1, and leaving them out makes the estimate
    # unbiased.
    within_a = (kernel[:n, :n].sum() - n) / (n * (n - 1))
    within_b = (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(within_a + within_b - 2 * kernel[:n, n:].mean())


def mode_masses(samples: Tensor, centres: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the share of the samples that are nearest to each centre, by the Euclidean distance.

    Args:
        samples: [n, *shape].
        centres: [K, *shape], in units of the samples.
        weights: [n], not negative, with any positive sum; equal by default.

    Returns:
        The shares, float64 [K] with the sum 1.

    Raises:
        ValueError: an empty set, different shapes of a sample, values that are not finite, or bad weights.
    """
    samples, centres = pair_of_sets(samples, centres)
    if weights is None:
        weights = samples.new_ones(len(samples))
    share = weights.double()
    total = share.sum()
    if share.shape != samples.shape[:1] or bool((share < 0).any()) or not 0 < total < math.inf:
        raise ValueError(
            f"weights must be [{len(samples)}], >= 0, with a positive finite sum, "
            f"got shape {tuple(weights.shape)} with sum {float(total)}"
        )
    nearest = torch.cdist(samples, centres).argmin(1)
    masses: Tensor = samples.new_zeros(len(centres)).index_add_(0, nearest, share) / total
    return masses


def _covariance_factor(samples: Tensor) -> Tensor:
    # Squaring the centred features into a covariance would halve the digits of its small
    # directions.
    centred = (samples - samples.mean(0)) / math.sqrt(len(samples) - 1)
    factor: Tensor = torch.linalg.qr(centred, mode="r").R
    return factor


def pair_of_sets(a: Tensor, b: Tensor, at_least: int = 1) -> tuple[Tensor, Tensor]:
    """Return two sets [n, *shape] as float64 [n, D], or raise ValueError for sets that cannot be compared."""
    if a.ndim < 2 or b.ndim < 2 or a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < at_least:
        raise ValueError(
            f"expected two sets [n, *shape] of at least {at_least} samples of one shape, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    a, b = a.detach().flatten(1).double(), b.detach().flatten(1).double()
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError("samples must be finite, got NaN or infinity among them")
    return a, b
