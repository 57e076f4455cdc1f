"""A table with one scalar per noise level, interpolated linearly in ln(sigma).

scale(sigma) = v_0 + sum_j (v_{j+1} - v_j) clamp(p - j, 0, 1), where p is the position of ln(sigma) on a uniform
grid from ln(0.002) to ln(80). Beyond its ends the table is constant. The sum of ramps needs no gather, is
differentiable in sigma, and is exactly 1 while every entry is 1. `initialise_from` fits the table.
"""

from __future__ import annotations

import math

import torch
from torch import nn

LOWEST, HIGHEST, BINS = math.log(0.002), math.log(80.0), 17


class ScaleTable(nn.Module):
    """The table v [17], a buffer that is saved but not trained. It is 1 everywhere until it is fitted."""

    values: torch.Tensor
    _ramp_starts: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("values", torch.ones(BINS))
        self.register_buffer("_ramp_starts", torch.arange(BINS - 1.0), persistent=False)

    @property
    def sigmas(self) -> list[float]:
        """The noise levels of the entries, increasing."""
        step = (HIGHEST - LOWEST) / (BINS - 1)
        return [math.exp(LOWEST + step * entry) for entry in range(BINS)]

    def forward(self, c_noise: torch.Tensor) -> torch.Tensor:
        """Return the scale [B] at c_noise [B] = ln(sigma)/4."""
        values = self.values
        position = (4 * c_noise - LOWEST) * ((BINS - 1) / (HIGHEST - LOWEST))
        # a sum of clamped ramps interpolates without a gather
        ramps = (position[:, None] - self._ramp_starts).clamp(0, 1)
        return values[0] + (ramps * (values[1:] - values[:-1])).sum(1)
