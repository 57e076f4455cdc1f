"""Check random answers in ways that hold for any generator: normals and resampled particles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WRONG = 6.0
"""Standard errors. A check looks at some hundred numbers; none of them is this far off by chance."""


def check_normals(z: Tensor) -> None:
    """Check independent standard normals: four moments, and no correlation at any distance."""
    flat = z.double().flatten()
    size = flat.numel()
    assert bool(flat.isfinite().all()), "noise is not finite"
    powers = torch.stack([flat.pow(k).mean() for k in range(1, 5)]).cpu()
    wanted = torch.tensor([0.0, 1.0, 0.0, 3.0], dtype=torch.float64)
    variances = torch.tensor([1.0, 2.0, 15.0, 96.0], dtype=torch.float64)
    off = (powers - wanted).abs() / (variances / size).sqrt()
    assert off.max() < WRONG, f"moments {powers.tolist()}"
    check_apart(flat)


def check_signs(z: Tensor) -> None:
    """Check independent signs, each 1 or -1 with equal probability."""
    flat = z.double().flatten()
    assert bool((flat.abs() == 1).all()), "a number that is neither 1 nor -1"
    mean = float(flat.mean())
    assert abs(mean) < WRONG / math.sqrt(flat.numel()), f"the mean of the signs is {mean}"
    check_apart(flat)


def check_apart(flat: Tensor) -> None:
    """Check numbers of mean 0 and variance 1, float64 [K]: no correlation at any distance."""
    size = flat.numel()
    # distance 1 compares neighbouring elements, the size of a state neighbouring particles, and half of all
    # elements shows a stream that was used twice
    power = torch.fft.rfft(flat).abs().square()
    correlations = torch.fft.irfft(power, n=size)[1:] / math.sqrt(size)
    # the largest of this many normals is about sqrt(2 log size)
    limit = WRONG + math.sqrt(2 * math.log(size))
    worst = int(correlations.abs().argmax())
    assert abs(float(correlations[worst])) < limit, f"noise repeats at distance {worst + 1}"


def check_unique(z: Tensor) -> None:
    """Check that numbers repeat no more often than those of torch, for the same count and dtype."""
    others = torch.randn(z.shape, dtype=z.dtype, device=z.device)
    got, wanted = (len(torch.unique(each)) for each in (z, others))
    assert got > 0.97 * wanted, f"{got} different numbers instead of {wanted}"


def offspring(ancestors: Tensor, expected: Tensor) -> Tensor:
    """Check that these are ancestors, and return the offspring of each particle, [P, N] in float64."""
    assert ancestors.shape == expected.shape, f"ancestors have shape {tuple(ancestors.shape)}"
    assert not ancestors.is_floating_point(), f"ancestors are {ancestors.dtype}"
    particles = expected.shape[1]
    assert 0 <= ancestors.min() <= ancestors.max() < particles, "an ancestor that does not exist"
    ones = torch.ones_like(expected)
    return torch.zeros_like(expected).scatter_add_(1, ancestors.long(), ones)


def check_sorted(ancestors: Tensor) -> None:
    """Check that ancestors are sorted."""
    assert bool((ancestors.diff(dim=1) >= 0).all()), "ancestors are not sorted"


def check_systematic(ancestors: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Check that ancestors are sorted and could come from one uniform u per population.

    With systematic resampling the first i particles together have ceil(sum of their expectations - u) offspring,
    so all partial sums stray from their expectation within one interval of length 1. This holds each particle to
    the floor or ceiling of its expectation. tolerance: the error of the summation.
    """
    counts = offspring(ancestors, expected)
    check_sorted(ancestors)
    strayed = torch.nn.functional.pad((counts - expected).cumsum(1), (1, 0))
    width = float((strayed.amax(1) - strayed.amin(1)).max())
    assert width < 1 + tolerance, f"sums of offspring stray over {width}, one uniform allows 1"
