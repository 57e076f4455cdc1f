"""Smooth features of the distances between particles, which no rotation, reflection or translation changes.

For every pair i < j with softened distance r_ij = sqrt(|y_i - y_j|² + w²) the features are
exp(-(r_ij - m_k)²/(2 w²)), k = 1..K. The centres m_k lie evenly from w to `longest`, at a spacing of w. The
softening keeps all derivatives finite where two particles coincide, and beyond `longest` the features are flat.
Source: the radial functions of Schütt et al. 2017, arXiv 1706.08566 (SchNet), with a softened distance.
"""

from __future__ import annotations

import torch
from torch import nn

from edmfast._internal.numbers import as_float, as_int
from edmfast._internal.rows import rows_of


class DistanceFeatures(nn.Module):
    """A module that maps positions y [B, particles, dimensions] to features [B, pairs, features].

    The pairs are all i < j, in the order of `pairs` [particles (particles - 1)/2, 2]. The features are infinitely
    differentiable.
    longest: the distance, in the units of y, beyond which distances are not distinguished.
    Raises ValueError for fewer than two particles or features, and for a longest that is not positive.
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
        # buffers that follow from the arguments are not saved
        self.register_buffer("pairs", torch.stack([first, second], 1), persistent=False)
        # a pair is read by its flat index in the particles x particles matrix of differences
        self.register_buffer("_cells", first * particles + second, persistent=False)
        centres = torch.linspace(self.width, longest, features)
        self.register_buffer("_centres", centres, persistent=False)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """Return features [B, pairs, features] of positions y [B, particles, dimensions]."""
        if y.dim() != 3 or y.shape[1] != self.particles:
            raise ValueError(f"y must be [B, {self.particles}, dimensions], given {rows_of(y)}")
        return self.of_differences(differences(y))

    def of_differences(self, between: torch.Tensor) -> torch.Tensor:
        """Return the features from the differences y_i - y_j [B, particles, particles, dimensions]."""
        pairs = between.flatten(1, 2).index_select(1, self._cells)
        # the softening keeps the square root differentiable at zero distance
        distance = (pairs.square().sum(2, keepdim=True) + self.width**2).sqrt()
        return torch.exp(((distance - self._centres) / self.width).square() * -0.5)


def differences(y: torch.Tensor) -> torch.Tensor:
    """Return the differences y_i - y_j [B, n, n, D], at index i, j, of positions y [B, n, D]."""
    return y[:, :, None] - y[:, None]
