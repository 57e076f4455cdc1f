"""Products of Gaussian densities: each is a Gaussian times a mass, in closed form.

prod_f N(x; mu_f, C_f) = exp(log mass) N(x; m, C) with C⁻¹ = sum_f C_f⁻¹ and m = C sum_f C_f⁻¹ mu_f. The density at
m gives the mass without cancellation: log mass = sum_f log N(m; mu_f, C_f) + (D/2) log 2 pi + (1/2) log |C|.
A power or a product of mixtures is the sum of such products over all combinations of components.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

MOST_NUMBERS = 1 << 26
"""The largest number of entries in the covariances of a product, half a GiB in float64."""


class GaussianProducts(NamedTuple):
    """Products of Gaussians, one for each of T combinations of components."""

    means: torch.Tensor
    """[T, D]."""
    covariances: torch.Tensor
    """[T, D, D]."""
    log_masses: torch.Tensor
    """The logs of the integrals of the products, [T]."""


class Components(NamedTuple):
    """The components of a mixture: means [K, D], eigenvalues [K, D], eigenvectors [K, D, D], log-weights [K]."""

    means: torch.Tensor
    eigenvalues: torch.Tensor
    eigenvectors: torch.Tensor
    log_weights: torch.Tensor

    @property
    def precisions(self) -> torch.Tensor:
        """The inverse covariances, [K, D, D]."""
        return (self.eigenvectors / self.eigenvalues[:, None]) @ self.eigenvectors.mT


def check_count(count: int, dim: int) -> None:
    """Raise ValueError where a product has too many components to hold their covariances in memory."""
    if count * dim**2 > MOST_NUMBERS:
        raise ValueError(
            f"this product has {count} components in {dim} dimensions, whose covariances hold {count * dim**2} "
            f"numbers, and at most {MOST_NUMBERS} are accepted: use a lower power or fewer components"
        )


def multisets(components: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (all multisets of so many components, int64 [T, size], the logs of their numbers of orders [T])."""
    index = torch.tensor(
        [*itertools.combinations_with_replacement(range(components), size)], dtype=torch.int64
    )
    counts = torch.nn.functional.one_hot(index, components).sum(1)
    orders = math.lgamma(size + 1) - torch.lgamma(counts.double() + 1).sum(1)
    return index, orders


def multiply(factors: Sequence[Components], index: torch.Tensor) -> GaussianProducts:
    """Return the products of the components index[t, f] of the factors f, for index int64 [T, F].

    The masses include the weights of the components.
    """
    chosen = [(f, f.precisions, rows) for f, rows in zip(factors, index.T, strict=True)]
    precision = sum((all_of[rows] for _, all_of, rows in chosen[1:]), chosen[0][1][chosen[0][2]])
    pull = sum(
        ((all_of @ f.means[..., None])[rows, :, 0] for f, all_of, rows in chosen[1:]),
        (chosen[0][1] @ chosen[0][0].means[..., None])[chosen[0][2], :, 0],
    )
    root = torch.linalg.cholesky(precision)
    covariances = torch.cholesky_inverse(root)
    means = torch.cholesky_solve(pull[..., None], root)[..., 0]
    dim = means.shape[1]
    log_masses = 0.5 * dim * math.log(2 * math.pi) - root.diagonal(dim1=1, dim2=2).log().sum(1)
    for f, _, rows in chosen:
        along = ((means - f.means[rows])[:, None] @ f.eigenvectors[rows])[:, 0]
        variances = f.eigenvalues[rows]
        log_normal = -0.5 * (along.square() / variances + (2 * math.pi * variances).log()).sum(1)
        log_masses = log_masses + f.log_weights[rows] + log_normal
    return GaussianProducts(means, 0.5 * (covariances + covariances.mT), log_masses)
