"""Mean and covariance of features that arrive in batches, in float64.

Two sets with n and m rows, means mu and nu, and sums S and T of the outer products of their deviations join to

    mean = mu + m/(n + m) (nu - mu),    sum = S + T + n m/(n + m) (nu - mu)(nu - mu)ᵀ,

which loses no digits to a large mean, unlike a sum of squares.
Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance".
"""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """The mean and the covariance of a stream of features, in float64 on the CPU.

    `update` takes one batch after the other, and `merge` joins the moments of two streams, for example those of
    two processes. Neither the order nor the sizes of the batches matter, up to rounding.
    Source: Chan, Golub and LeVeque 1983.

    Attributes:
        count: the number of rows so far.
        mean: their mean, float64 [F].
        scatter: the sum of the outer products of the deviations from the mean, float64 [F, F].
    """

    def __init__(self, features: Tensor | None = None) -> None:
        """Start from nothing, or from one batch.

        Args:
            features: a first batch [B, F]; see `update`.

        Raises:
            ValueError: as `update` does.
        """
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self.scatter = torch.zeros(0, 0, dtype=torch.float64)
        if features is not None:
            self.update(features)

    def update(self, features: Tensor) -> None:
        """Add the rows of a batch.

        Args:
            features: real numbers [B, F], with the F of the batches before.

        Raises:
            ValueError: another shape, or numbers that are not finite.
        """
        if features.dim() != 2 or (self.count and features.shape[1] != len(self.mean)):
            expected = f"[B, {len(self.mean)}]" if self.count else "[B, F]"
            raise ValueError(f"features must be {expected}, got {[*features.shape]}")
        rows = features.detach().double().cpu()
        if not bool(rows.isfinite().all()):
            raise ValueError("features must be finite, got NaN or infinity among them")
        if len(rows) == 0:
            return
        mean = rows.mean(0)
        deviation = rows - mean
        self._join(len(rows), mean, deviation.T @ deviation)

    def merge(self, other: Moments) -> None:
        """Add the rows that another object has seen. Raises ValueError for another number of features."""
        if other.count == 0:
            return
        if self.count and len(other.mean) != len(self.mean):
            raise ValueError(
                f"both must have one number of features, got {len(self.mean)} and {len(other.mean)}"
            )
        self._join(other.count, other.mean, other.scatter)

    def _join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if self.count == 0:
            self.count, self.mean, self.scatter = count, mean.clone(), scatter.clone()
            return
        total, step = self.count + count, mean - self.mean
        self.scatter = self.scatter + scatter + self.count * count / total * torch.outer(step, step)
        self.mean = self.mean + count / total * step
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, float64 [F, F]. Raises ValueError for fewer than two rows."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two rows, got {self.count}")
        return self.scatter / (self.count - 1)

    def root(self) -> Tensor:
        """Return R, float64 [F, F], with Rᵀ R equal to the covariance up to rounding.

        The rows of R that belong to eigenvalues below F times the rounding of the largest one are zero, because
        such eigenvalues have no correct digits. So a covariance of low rank has a root of the same rank.
        """
        values, vectors = torch.linalg.eigh(self.covariance)
        noise = len(values) * torch.finfo(torch.float64).eps * values.abs().max()
        values = torch.where(values > noise, values, 0.0)
        root: Tensor = values.sqrt()[:, None] * vectors.T
        return root
