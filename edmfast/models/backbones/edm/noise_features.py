"""Features of the noise level: sines and cosines of fixed or of random frequencies.

  positional   sin(c w_i), cos(c w_i) with w_i = 10000^(-i/n'),  i = 0 … n/2 - 1
  fourier      sin(2π c g_i), cos(2π c g_i) with g_i ~ N(0, 16²), drawn once

with c = c_noise [B] and n features. n' = n/2 - 1 in DDPM++, so that the lowest frequency is 1/10000, and n' = n/2
in ADM, which has the cosines first.

Sources: Vaswani et al. 2017, arXiv 1706.03762; Tancik et al. 2020, arXiv 2006.10739; Song et al. 2021,
arXiv 2011.13456; Karras et al. 2022, arXiv 2206.00364, table 7.
"""

from __future__ import annotations

import math

import torch
from torch import nn


class PositionalFeatures(nn.Module):
    """The features [B, n] of fixed frequencies. n: even. to_the_end: n' = n/2 - 1. sines_first: their order."""

    _frequencies: torch.Tensor

    def __init__(self, n: int, *, to_the_end: bool, sines_first: bool) -> None:
        super().__init__()
        half = n // 2
        # float32 throughout, as in the networks whose weights were trained with these numbers
        steps = torch.arange(half, dtype=torch.float32) / max(1, half - to_the_end)
        frequencies = ((1 / 10000) ** steps).to(torch.get_default_dtype())
        # the frequencies follow from n, so that states need not hold them
        self.register_buffer("_frequencies", frequencies, persistent=False)
        self.sines_first = sines_first

    def forward(self, c_noise: torch.Tensor) -> torch.Tensor:
        """Return [B, n] for c_noise [B]."""
        angle = c_noise[:, None] * self._frequencies
        waves = (angle.sin(), angle.cos()) if self.sines_first else (angle.cos(), angle.sin())
        return torch.cat(waves, 1)


class FourierFeatures(nn.Module):
    """The features [B, n] of random frequencies, which a state holds under the name freqs. n: even."""

    freqs: torch.Tensor

    def __init__(self, n: int, deviation: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", deviation * torch.randn(n // 2))

    def forward(self, c_noise: torch.Tensor) -> torch.Tensor:
        """Return [B, n] for c_noise [B]."""
        angle = c_noise[:, None] * (2 * math.pi * self.freqs)
        return torch.cat([angle.sin(), angle.cos()], 1)
