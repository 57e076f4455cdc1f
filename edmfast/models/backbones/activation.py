"""silu(x) = x/(1 + exp(-x)) = h + h tanh(h), h = x/2 (Elfwing et al. 2017, arXiv 1702.03118), and
gelu(x) = h + h tanh(sqrt(2/π) (x + 0.044715 x³)) (Hendrycks & Gimpel 2016, arXiv 1606.08415).

torch's own CPU kernels round an element differently according to its place in memory (vector body
or remainder), so a sample's bits would depend on the batch around it. These forms do not, in any
derivative order.
"""

from __future__ import annotations

import math

import torch


def silu(x: torch.Tensor) -> torch.Tensor:
    """Elementwise, any shape; infinitely differentiable."""
    h = 0.5 * x
    return h * torch.tanh(h) + h


def gelu(x: torch.Tensor) -> torch.Tensor:
    """The tanh form, elementwise, any shape; infinitely differentiable."""
    h = 0.5 * x
    return h * torch.tanh(math.sqrt(2 / math.pi) * (0.044715 * (x * x * x) + x)) + h
