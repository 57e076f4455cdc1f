"""Functions that return numbers of unit variance for independent numbers of unit variance.

  mp_silu(x) = silu(x)/0.596
  mp_sum(a, b, t) = ((1 - t) a + t b)/sqrt((1 - t)² + t²)
  mp_cat(a, b, t) = sqrt((n + m)/((1 - t)² + t²)) [(1 - t) a/sqrt(n), t b/sqrt(m)] for n and m channels
  normalised(x) = x/(ε + rms(x)), ε = 1e-4, rms(x) = sqrt(mean(x²) + 1e-12)
  features(c) = sqrt(2) cos(w c + φ), w ~ N(0, (2π)²), φ ~ U(0, 2π)

All are infinitely differentiable. The 1e-12 is an addition, without which rms(x) would have no derivative at 0.
Source: Karras et al. 2024, arXiv 2312.02696, appendix B.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edmfast.models.backbones.activation import silu

EPSILON = 1e-4
FLOOR = 1e-12
"""Added to mean squares. The third power of its root, which derivatives divide by, is far from underflow."""
SILU_SCALE = 1 / 0.596
"""The reciprocal of the root mean square of silu(x) for x ~ N(0, 1)."""


def mp_silu(x: Tensor) -> Tensor:
    """Return silu(x)/0.596, elementwise."""
    return silu(x) * SILU_SCALE


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Return the sum of a and b with the shares 1 - t and t, divided by the norm of the shares."""
    norm = math.hypot(1 - t, t)
    return a * ((1 - t) / norm) + b * (t / norm)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Return a [B, n, ...] and b [B, m, ...] along dimension 1, where the share t of the variance is b's.

    Both halves together have unit variance, whatever their numbers of channels.
    """
    n, m = a.shape[1], b.shape[1]
    factor = math.sqrt((n + m) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (factor * (1 - t) / math.sqrt(n)), b * (factor * t / math.sqrt(m))], 1)


def rms(x: Tensor, dim: int | list[int]) -> Tensor:
    """Return the root mean square of x over some dimensions, which stay with one entry; in float32 at least."""
    # sums of squares would lose most digits in half precision
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    square = wide.square().mean(dim, keepdim=True)
    return (square + FLOOR).sqrt()


def normalised(x: Tensor, dim: int) -> Tensor:
    """Return x/(1e-4 + rms(x)) over a dimension, in the dtype of x. Over channels it is the pixel norm."""
    # the product is rounded once, in the wider dtype of the norm
    return (x * (EPSILON + rms(x, dim)).reciprocal()).to(x.dtype)


class FourierFeatures(nn.Module):
    """The features [B, n] of c_noise [B]. A state holds w and φ under the names freqs and phases."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(n))
        self.register_buffer("phases", 2 * math.pi * torch.rand(n))

    def forward(self, c_noise: Tensor) -> Tensor:
        """Return [B, n], in the dtype of c_noise, computed in float32 at least."""
        wide = torch.promote_types(c_noise.dtype, torch.float32)
        angle = c_noise.to(wide)[:, None] * self.freqs.to(wide) + self.phases.to(wide)
        return (math.sqrt(2) * angle.cos()).to(c_noise.dtype)
