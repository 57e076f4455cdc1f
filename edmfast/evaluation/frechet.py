"""The Fréchet distance of two sets of features, from their moments, with a bootstrapped standard error.

    d² = |mu_a - mu_b|² + tr C_a + tr C_b - 2 tr (C_a C_b)^(1/2),

the distance of the Gaussians with the same means and covariances, which is called FID where the features are
those of Inception. With C = Rᵀ R the last trace is the sum of the singular values of R_a R_bᵀ, so that no root of
a product of matrices is taken, and covariances of low rank are no special case.

A distance of finite sets is too large on average: the error of a covariance adds to it, about in proportion to
1/n. `noise_floor` measures this for data against data, and a distance near the floor means that nothing is wrong.

The bootstrap draws each of the two sets anew from itself, with replacement, while the other stays. The two
variances add up, as the sets are independent.
Sources: Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500; Efron 1979 (bootstrap).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edmfast._internal.generators import generator
from edmfast._internal.numbers import as_int, as_seed
from edmfast.evaluation.moments import Moments


@dataclass(frozen=True)
class FrechetDistance:
    """A squared Fréchet distance with its standard error, both in squared units of the features.

    Attributes:
        value: the squared distance.
        standard_error: its standard deviation over bootstrap draws of both sets; NaN without a bootstrap.
    """

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.standard_error:.2g}"


def frechet_of_moments(a: Moments, b: Moments) -> float:
    """Return the squared Fréchet distance between the Gaussians with the moments of two sets.

    Sources: Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500.

    Args:
        a: the moments of one set, of at least two rows.
        b: the moments of the other set, of at least two rows.

    Returns:
        The squared distance, in squared units of the features.

    Raises:
        ValueError: fewer than two rows, or another number of features.
    """
    if len(a.mean) != len(b.mean):
        raise ValueError(
            f"both must have one number of features, got {len(a.mean)} and {len(b.mean)}"
        )
    overlap = torch.linalg.svdvals(a.root() @ b.root().T).sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * overlap
    # Rounding may make the distance of equal sets negative.
    return max(float((a.mean - b.mean).square().sum() + spread), 0.0)


def frechet_of_features(
    a: Tensor, b: Tensor, *, replicates: int = 20, seed: int = 0
) -> FrechetDistance:
    """Return the squared Fréchet distance of two sets of features, with a bootstrapped standard error.

    Sources: Heusel et al. 2017, arXiv 1706.08500; Efron 1979.

    Args:
        a: one set [n, F], n >= 2.
        b: the other set [m, F], m >= 2.
        replicates: the number of bootstrap draws of each set, at least 2; 0 leaves the error out.
        seed: the seed of these draws.

    Returns:
        A `FrechetDistance`.

    Raises:
        TypeError: a number of the wrong type.
        ValueError: sets of another shape or with numbers that are not finite, or one replicate.
    """
    replicates, seed = as_int("replicates", replicates, least=0), as_seed(seed)
    if replicates == 1:
        raise ValueError("replicates must be 0 or at least 2, got 1")
    moments_a, moments_b = Moments(a), Moments(b)
    value = frechet_of_moments(moments_a, moments_b)
    if replicates == 0:
        return FrechetDistance(value, math.nan)
    draws = generator(seed)
    variances = [
        _replicated(rows, own, other, replicates, draws).var()
        for rows, own, other in ((a, moments_a, moments_b), (b, moments_b, moments_a))
    ]
    return FrechetDistance(value, math.sqrt(float(sum(variances))))


def noise_floor(
    features: Tensor, size: int | None = None, *, replicates: int = 20, seed: int = 0
) -> FrechetDistance:
    """Return the squared Fréchet distance between two disjoint random parts of one set, which is all noise.

    Source: Heusel et al. 2017, arXiv 1706.08500.

    Args:
        features: the set [n, F], n >= 4.
        size: the number of rows in the first part, from 2 to n - 2. The second part has the rest, up to n/2 rows
            where size is None.
        replicates: the number of bootstrap draws, as for `frechet_of_features`.
        seed: the seed of the parts and of the bootstrap.

    Returns:
        A `FrechetDistance`.

    Raises:
        TypeError: a number of the wrong type.
        ValueError: fewer than four rows, or a size that leaves fewer than two rows.
    """
    seed = as_seed(seed)
    if features.dim() != 2 or len(features) < 4:
        raise ValueError(f"features must be [n, F] with n >= 4, got {[*features.shape]}")
    first = (
        len(features) // 2
        if size is None
        else as_int("size", size, least=2, most=len(features) - 2)
    )
    order = torch.randperm(len(features), generator=generator(seed)).to(features.device)
    parts = features[order[:first]], features[order[first:]]
    return frechet_of_features(*parts, replicates=replicates, seed=seed)


def _replicated(
    features: Tensor, own: Moments, other: Moments, replicates: int, draws: torch.Generator
) -> Tensor:
    """Return the distances [replicates] of bootstrap draws of a set to the moments of another one."""
    rows = features.detach().double().cpu() - own.mean
    count, fixed = len(rows), float(other.covariance.trace())
    # The bootstrap changes weights of rows only, so the product with the root is formed once.
    projected, lengths = rows @ other.root().T, rows.square().sum(1)
    distances = []
    for _ in range(replicates):
        drawn = torch.randint(count, (count,), generator=draws)
        weights = torch.bincount(drawn, minlength=count).double()
        mean = weights @ rows / count
        variance = (weights @ lengths - count * mean.square().sum()) / (count - 1)
        centre = weights @ projected / count
        gram = (projected * weights[:, None]).T @ projected - count * torch.outer(centre, centre)
        # Eigenvalues of rounding may be negative.
        overlap = (torch.linalg.eigvalsh(gram).clamp_min(0) / (count - 1)).sqrt().sum()
        shift = (own.mean + mean - other.mean).square().sum()
        distances.append(shift + variance + fixed - 2 * overlap)
    return torch.stack(distances)
