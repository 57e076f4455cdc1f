"""Distances between particles as smooth features: what of a configuration no rotation, reflection or
translation changes.

For every pair i < j with r_ij = sqrt(|y_i - y_j|² + w²): exp(-(r_ij - m_k)²/(2 w²)), k = 1..K, where the
centres m_k lie evenly from w to `longest`, w apart. The softening w keeps all derivatives finite where two
particles coincide, and the features are flat beyond `longest`. Source: the radial functions of Schütt et al.
2017, arXiv 1706.08566 (SchNet), with a softened distance.
"""

from __future__ import annotations

import torch
from torch import nn

from edmfast._internal.numbers import as_float, as_int
from edmfast._internal.rows import rows_of


class DistanceFeatures(nn.Module):
    """Positions y [B, particles, dimensions] -> features [B, pairs, features], infinitely differentiable.

    Pairs are those i < j, in the order of `pairs` [particles (particles - 1)/2, 2]. longest: distance, in
    the units of y, beyond which nothing is told apart. Raises ValueError for less than two particles or
    features and for a longest that is not positive.
    """

    pairs: torch.Tensor
    _centres: torch.Tensor
    _cells: torch.Tensor

    def __init__(self, particles: int, features: int = 32, longest: float = 6.0) -> None:
        super().__init__()
        particles = as_int("particles", particles, least=2)
        features = as_int("features", features, least=2)
        longest = as_float("longest", longest, positive=True)
        self.particles, self.width = particles, longest / features
        first, second = torch.triu_indices(particles, particles, 1)
        self.register_buffer("pairs", torch.stack([first, second], 1), persistent=False)
        self.register_buffer("_cells", first * particles + second, persistent=False)
        centres = torch.linspace(self.width, longest, features)
        self.register_buffer("_centres", centres, persistent=False)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """y [B, particles, dimensions] -> [B, pairs, features]."""
        if y.dim() != 3 or y.shape[1] != self.particles:
            raise ValueError(f"y must be [B, {self.particles}, dimensions], given {rows_of(y)}")
        return self.of_differences(differences(y))

    def of_differences(self, offsets: torch.Tensor) -> torch.Tensor:
        """The same from y_i - y_j [B, particles, particles, dimensions]."""
        pairs = offsets.flatten(1, 2).index_select(1, self._cells)
        distance = (pairs.square().sum(2, keepdim=True) + self.width**2).sqrt()
        return (((distance - self._centres) / self.width).square() * -0.5).exp()


def differences(y: torch.Tensor) -> torch.Tensor:
    """y [B, n, D] -> y_i - y_j [B, n, n, D], at i, j."""
    return y[:, :, None] - y[:, None]
