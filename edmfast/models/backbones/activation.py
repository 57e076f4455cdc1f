"""The activations silu and gelu, in forms whose bits do not depend on the batch around a sample.

silu(x) = x/(1 + exp(-x)) = h + h tanh(h) with h = x/2 (Elfwing et al. 2017, arXiv 1702.03118), and
gelu(x) = h + h tanh(sqrt(2/π) (x + 0.044715 x³)) (Hendrycks & Gimpel 2016, arXiv 1606.08415).

torch's own CPU kernels round an element differently depending on its place in memory, in the vectorised body or
in the remainder. The forms here round alike everywhere, in every order of derivative.
"""

from __future__ import annotations

import math

import torch


def silu(x: torch.Tensor) -> torch.Tensor:
    """Return silu(x), elementwise, for any shape. It is infinitely differentiable."""
    h = 0.5 * x
    return h * torch.tanh(h) + h


def gelu(x: torch.Tensor) -> torch.Tensor:
    """Return the tanh form of gelu(x), elementwise, for any shape. It is infinitely differentiable."""
    h = 0.5 * x
    return h * torch.tanh(math.sqrt(2 / math.pi) * (0.044715 * (x * x * x) + x)) + h
