"""silu(x) = x/(1 + exp(-x)) = h + h tanh(h), h = x/2 (Elfwing et al. 2017, arXiv 1702.03118).

torch's own CPU kernel rounds an element differently according to its place in memory (vector body
or remainder), so a sample's bits would depend on the batch around it. This form does not, in any
derivative order.
"""

from __future__ import annotations

import torch


def silu(x: torch.Tensor) -> torch.Tensor:
    """Elementwise, any shape; infinitely differentiable."""
    h = 0.5 * x
    return h * torch.tanh(h) + h
