"""A scalar per noise level, tabulated in ln(sigma) and interpolated linearly.

scale(sigma) = v_0 + sum_j (v_{j+1} - v_j) clamp(p - j, 0, 1), with p the position of ln(sigma) on
a uniform grid from ln(0.002) to ln(80); constant beyond its ends. Written as a sum of ramps: no
gather, differentiable in sigma, and exactly 1 while every entry is 1.
"""

from __future__ import annotations

import math

import torch
from torch import nn

LOWEST, HIGHEST, BINS = math.log(0.002), math.log(80.0), 17


class ScaleTable(nn.Module):
    """The table v [17] as a buffer (saved, not trained), 1 everywhere until fitted."""

    values: torch.Tensor
    _ramp_starts: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("values", torch.ones(BINS))
        self.register_buffer("_ramp_starts", torch.arange(BINS - 1.0), persistent=False)

    @property
    def sigmas(self) -> list[float]:
        """Noise levels of the table's entries, increasing."""
        step = (HIGHEST - LOWEST) / (BINS - 1)
        return [math.exp(LOWEST + step * entry) for entry in range(BINS)]

    def forward(self, c_noise: torch.Tensor) -> torch.Tensor:
        """c_noise [B] = ln(sigma)/4 -> scale [B]."""
        values = self.values
        position = (4 * c_noise - LOWEST) * ((BINS - 1) / (HIGHEST - LOWEST))
        ramps = (position[:, None] - self._ramp_starts).clamp(0, 1)
        return values[0] + (ramps * (values[1:] - values[:-1])).sum(1)
