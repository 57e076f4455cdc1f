"""Distances between two sets of samples, and how samples share out over known modes.

All arithmetic is float64. Sets are [n, *shape], flattened to [n, D]; the two sizes may differ.
Sources: Frechet distance of Gaussians (Dowson and Landau 1982; Heusel et al. 2017,
arXiv 1706.08500), sliced Wasserstein distance (Bonneel et al. 2015), maximum mean discrepancy
(Gretton et al. 2012, equation 3).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float, as_int, as_seed, check_level
from edmfast.ops import standard_normal

_FREE_STREAM = 5
_DIRECTION_STEP = 2 << 30
"""Far from the steps of trajectories, whose noise is in the states."""


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Squared Frechet distance between Gaussians fitted to two feature sets [n, *shape].

    |mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), unbiased covariances (the FID formula).
    With C = R^T R from a QR factorisation of the centred features, the last trace is the sum of the
    singular values of R_a R_b^T: no matrix root, no loss of digits in rank-deficient sets.

    Raises:
        ValueError: fewer than two samples, different feature sizes, or non-finite features.
    """
    a, b = _pair(features_a, features_b, at_least=2)
    root_a, root_b = _covariance_factor(a), _covariance_factor(b)
    overlap = torch.linalg.svdvals(root_a @ root_b.T).sum()
    spread = root_a.square().sum() + root_b.square().sum() - 2 * overlap
    return max(float((a.mean(0) - b.mean(0)).square().sum() + spread), 0.0)


def sliced_wasserstein(a: Tensor, b: Tensor, *, projections: int = 256, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance: root mean square over random directions of the 1-D distance.

    The 1-D distance between the two empirical laws is exact, also for unequal sizes.

    Raises:
        ValueError: an empty set, different sizes of a sample, non-finite values, projections < 1.
    """
    projections, seed = as_int("projections", projections, least=1), as_seed(seed)
    a, b = _pair(a, b)
    like = a.new_empty(1, projections, a.shape[1])
    directions = standard_normal(like, seed=seed, step=_DIRECTION_STEP, stream=_FREE_STREAM)[0]
    directions = directions / directions.norm(dim=1, keepdim=True)
    sorted_a, sorted_b = (a @ directions.T).sort(0).values, (b @ directions.T).sort(0).values
    # Quantile functions step at i/n and j/m; in units of 1/(n m) all steps are integers.
    n, m = len(a), len(b)
    steps = torch.cat([torch.arange(n + 1) * m, torch.arange(m) * n]).unique()
    left, width = steps[:-1], steps.diff().double() / (n * m)
    left, width = left.to(a.device), width.to(a.device)
    gap = sorted_a[left // m] - sorted_b[left // n]
    return math.sqrt(float((width[:, None] * gap.square()).sum(0).mean()))


def maximum_mean_discrepancy(a: Tensor, b: Tensor, *, bandwidth: float | None = None) -> float:
    """Unbiased squared MMD with the kernel exp(-|x - y|^2 / (2 bandwidth^2)); may be below 0.

    bandwidth: in the units of the samples; by default the median distance in the pooled set.
    Needs memory for (n + m)^2 numbers.

    Raises:
        ValueError: fewer than two samples, different sizes of a sample, non-finite values, or a
            bandwidth that is not positive (as the default is where most samples coincide).
    """
    a, b = _pair(a, b, at_least=2)
    pooled = torch.cat([a, b])
    distance = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist")
    if bandwidth is None:
        i, j = torch.triu_indices(len(pooled), len(pooled), 1, device=a.device)
        bandwidth = float(distance[i, j].median())
    bandwidth = as_float("bandwidth", bandwidth, positive=True)
    check_level("bandwidth", bandwidth)
    kernel = torch.exp(-distance.square() / (2 * bandwidth**2))
    n, m = len(a), len(b)
    within_a = (kernel[:n, :n].sum() - n) / (n * (n - 1))
    within_b = (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(within_a + within_b - 2 * kernel[:n, n:].mean())


def mode_masses(samples: Tensor, centres: Tensor, weights: Tensor | None = None) -> Tensor:
    """Share of the samples nearest to each centre: float64 [K], summing to 1.

    Args:
        samples: [n, *shape]. centres: [K, *shape]. weights: [n], not negative, any scale.

    Raises:
        ValueError: an empty set, different sizes of a sample, non-finite values, bad weights.
    """
    samples, centres = _pair(samples, centres)
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
    masses = samples.new_zeros(len(centres)).index_add_(0, nearest, share)
    return masses / total


def _covariance_factor(samples: Tensor) -> Tensor:
    centred = (samples - samples.mean(0)) / math.sqrt(len(samples) - 1)
    return torch.linalg.qr(centred, mode="r").R


def _pair(a: Tensor, b: Tensor, at_least: int = 1) -> tuple[Tensor, Tensor]:
    if a.ndim < 2 or b.ndim < 2 or a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < at_least:
        raise ValueError(
            f"expected two sets [n, *shape] of at least {at_least} samples of one shape, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    a, b = a.detach().flatten(1).double(), b.detach().flatten(1).double()
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError("samples must be finite, got NaN or infinity among them")
    return a, b
