"""The posterior of the components of a mixture of Gaussians, for a block of states at given noise levels.

The formulas and their names are those of `edmfast.analytic.mixture_of_gaussians`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from edmfast._internal.batch_invariant import aligned, padding

_FEW_NUMBERS = 256
"""Up to this many numbers in the eigenvectors, all x - mu_k are formed, which avoids cancellation."""
_SMALLEST_LOG_SHARE = -64.0


class Table(NamedTuple):
    """The numbers of a mixture that no noise level changes, in the dtype of a computation."""

    means: torch.Tensor
    """mu_k, [K, D]."""
    centre: torch.Tensor
    """The mean c of the mixture, [D]."""
    rotated: torch.Tensor
    """The offsets U_kᵀ(mu_k - c), [K, D]."""
    eigenvalues: torch.Tensor
    """e_k, [K, D]."""
    matrix: torch.Tensor
    """The eigenvectors U_k side by side, [D, K D]."""
    scale: torch.Tensor
    """The mean variance s² of the mixture, []."""

    def to(self, dtype: torch.dtype) -> Table:
        """Return the table in another dtype."""
        return Table(*(part.to(dtype) for part in self))


def table_of(
    means: torch.Tensor, values: torch.Tensor, vectors: torch.Tensor, weights: torch.Tensor
) -> Table:
    """Return the table of means [K, D], eigenvalues [K, D], eigenvectors [K, D, D] and weights [K]."""
    centre = weights @ means
    offsets = means - centre
    return Table(
        means,
        centre,
        (offsets[:, None] @ vectors)[:, 0],
        values,
        vectors.permute(1, 0, 2).reshape(means.shape[1], -1),
        weights @ (values + offsets.square()).mean(1),
    )


class Posterior:
    """The posterior of the components for states x [B, D] at levels [B, 1] or [1, 1].

    log_weights: [B, K] or [1, K], -inf for components that do not count.
    """

    def __init__(
        self,
        table: Table,
        x: torch.Tensor,
        levels: torch.Tensor,
        log_weights: torch.Tensor,
    ) -> None:
        self._table = table
        self._few = table.matrix.numel() <= _FEW_NUMBERS
        self._from_centre = x - table.centre
        self._noise = levels.square()
        self._total = table.eigenvalues + self._noise[:, :, None]
        self._z = self._rotated(x)
        log_volumes = (2 * math.pi * self._total).log().sum(2)
        logits = log_weights - 0.5 * (log_volumes + (self._z.square() / self._total).sum(2))
        # the shift cancels in the result, so that it needs no derivative
        peak = logits.detach().amax(1, keepdim=True)
        # subnormal shares would make the exponential and the matrix products many times slower
        shares = (logits - peak).clamp_min(_SMALLEST_LOG_SHARE).exp() * (log_weights > -math.inf)
        mass = shares.sum(1, keepdim=True)
        self.log_density = (peak + mass.log()).squeeze(1)
        """log p(x; sigma), [B]."""
        self.responsibilities = shares / mass
        """r_k, [B, K]."""

    def score(self) -> torch.Tensor:
        """Return the score, [B, D]."""
        _, mean = self._pull()
        return (mean - self._from_centre) / (self._table.scale + self._noise)

    def denoised(self) -> torch.Tensor:
        """Return the posterior mean of x_0, [B, D]."""
        _, mean = self._pull()
        scale = self._table.scale
        inner = (scale * self._from_centre + self._noise * mean) / (scale + self._noise)
        return self._table.centre + inner

    def jacobian_trace(self) -> torch.Tensor:
        """Return the trace of the posterior covariance of x_0, divided by sigma², [B]."""
        pull, mean = self._pull()
        shares = (self._table.eigenvalues / self._total).sum(2)
        within = (self.responsibilities * shares).sum(1)
        spread = (self.responsibilities * pull.square().sum(2)).sum(1) - mean.square().sum(1)
        factor = self._noise / (self._table.scale + self._noise).square()
        return within + factor[:, 0] * spread

    def _rotated(self, x: torch.Tensor) -> torch.Tensor:
        """Return z_k = U_kᵀ(x - mu_k), [B, K, D]."""
        table = self._table
        components, dim = table.means.shape
        if self._few:
            offsets = x[:, None] - table.means
            vectors = table.matrix.view(dim, components, dim).transpose(0, 1)
            return (offsets[..., None] * vectors).sum(2)
        wide = aligned(table.matrix, padding(components * dim), padding(dim))
        product = aligned(self._from_centre, padding(dim)) @ wide
        return product[:, : components * dim].reshape(-1, components, dim) - table.rotated

    def _pull(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (f_k [B, K, D], F [B, D])."""
        table = self._table
        components, dim = table.means.shape
        pull = table.rotated + (table.eigenvalues - table.scale) / self._total * self._z
        weighted = self.responsibilities[:, :, None] * pull
        if self._few:
            vectors = table.matrix.view(dim, components, dim).transpose(0, 1)
            return pull, (weighted[:, :, None] * vectors).sum((1, 3))
        wide = aligned(table.matrix, padding(components * dim), padding(dim))
        product = aligned(weighted.flatten(1), padding(components * dim)) @ wide.T
        return pull, product[:, :dim]
