"""Mixtures of Gaussians with random full covariances, and states for them."""

from __future__ import annotations

import torch

from edmfast.analytic import MixtureOfGaussians

F64 = torch.float64


def mixture(components, dim, seed=0, classes=None):
    draw = torch.Generator().manual_seed(seed)
    roots = torch.randn(components, dim, dim, generator=draw, dtype=F64)
    return MixtureOfGaussians(
        torch.randn(components, dim, generator=draw, dtype=F64),
        roots @ roots.mT / dim + 0.05 * torch.eye(dim, dtype=F64),
        torch.rand(components, generator=draw, dtype=F64),
        classes,
    )


def states(dim, rows=24):
    draw = torch.Generator().manual_seed(1)
    return 2 * torch.randn(rows, dim, generator=draw, dtype=F64), torch.logspace(
        -2, 1.5, rows, dtype=F64
    )
