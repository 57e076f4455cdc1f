"""The energy distance of two sets of samples, which needs neither features nor a bandwidth.

With independent X, X' of one distribution and Y, Y' of the other,

    2 E|X - Y| - E|X - X'| - E|Y - Y'|

is 0 for equal distributions and positive for all others. The name has nothing to do with the energy of a model.
Source: Szekely and Rizzo 2013, "Energy statistics: A class of statistics based on distances".
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.diagnostics.quality import pair_of_sets

_ROWS = 1024
"""The rows of one set whose distances to the other set are in memory at once."""


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Return the unbiased estimate of the energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| of two sets.

    The estimate may be negative. It takes time for (n + m)² distances, and memory for 1,024 (n + m) numbers.
    Source: Szekely and Rizzo 2013.

    Args:
        a: one set [n, *shape], n >= 2.
        b: the other set [m, *shape], m >= 2.

    Returns:
        The distance, in units of the samples.

    Raises:
        ValueError: fewer than two samples, different shapes of a sample, or values that are not finite.
    """
    a, b = pair_of_sets(a, b, at_least=2)
    n, m = len(a), len(b)
    # A sample is no partner of itself, which makes the estimate unbiased.
    within = _total(a, a) / (n * (n - 1)) + _total(b, b) / (m * (m - 1))
    return 2 * _total(a, b) / (n * m) - within


def _total(a: Tensor, b: Tensor) -> float:
    """Return the sum of the distances of all pairs."""
    # A matrix product would lose the digits of small distances.
    parts = [
        torch.cdist(rows, b, compute_mode="donot_use_mm_for_euclid_dist").sum()
        for rows in a.split(_ROWS)
    ]
    return float(torch.stack(parts).sum())
