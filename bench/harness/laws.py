"""Checks of random answers that hold whatever generator drew them: of normals, and of resampled particles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WRONG = 6.0
"""Standard errors. A check looks at some hundred numbers, of which none is so far off by chance."""


def check_normals(z: Tensor) -> None:
    """Independent standard normals: four moments, and no correlation at any distance."""
    flat = z.double().flatten()
    size = flat.numel()
    assert bool(flat.isfinite().all()), "noise is not finite"
    powers = torch.stack([flat.pow(k).mean() for k in range(1, 5)]).cpu()
    wanted = torch.tensor([0.0, 1.0, 0.0, 3.0], dtype=torch.float64)
    variances = torch.tensor([1.0, 2.0, 15.0, 96.0], dtype=torch.float64)
    off = (powers - wanted).abs() / (variances / size).sqrt()
    assert off.max() < WRONG, f"moments {powers.tolist()}"
    # at distance 1 neighbouring elements, at that of two particles these, at half of all a stream used twice
    power = torch.fft.rfft(flat).abs().square()
    correlations = torch.fft.irfft(power, n=size)[1:] / math.sqrt(size)
    # the largest of so many normals
    limit = WRONG + math.sqrt(2 * math.log(size))
    worst = int(correlations.abs().argmax())
    assert abs(float(correlations[worst])) < limit, f"noise repeats at distance {worst + 1}"


def check_unique(z: Tensor) -> None:
    """Numbers occur twice no more often than torch's own, which are as many and of the same type."""
    others = torch.randn(z.shape, dtype=z.dtype, device=z.device)
    got, wanted = (len(torch.unique(each)) for each in (z, others))
    assert got > 0.97 * wanted, f"{got} different numbers instead of {wanted}"


def offspring(ancestors: Tensor, expected: Tensor) -> Tensor:
    """How many each particle has, [P, N] in float64, once these are ancestors at all."""
    assert ancestors.shape == expected.shape, f"ancestors have shape {tuple(ancestors.shape)}"
    assert not ancestors.is_floating_point(), f"ancestors are {ancestors.dtype}"
    particles = expected.shape[1]
    assert 0 <= ancestors.min() <= ancestors.max() < particles, "an ancestor that does not exist"
    ones = torch.ones_like(expected)
    return torch.zeros_like(expected).scatter_add_(1, ancestors.long(), ones)


def check_sorted(ancestors: Tensor) -> None:
    assert bool((ancestors.diff(dim=1) >= 0).all()), "ancestors are not sorted"


def check_systematic(ancestors: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Sorted, and what one uniform u makes of the expected offspring: the first i particles together have
    ceil(sum of their expectations - u), so sums of all lengths stray from theirs within one interval of
    length 1. That holds each particle to the floor or ceiling of its own. tolerance: of the summation."""
    counts = offspring(ancestors, expected)
    check_sorted(ancestors)
    strayed = torch.nn.functional.pad((counts - expected).cumsum(1), (1, 0))
    width = float((strayed.amax(1) - strayed.amin(1)).max())
    assert width < 1 + tolerance, f"sums of offspring stray over {width}, one uniform allows 1"
