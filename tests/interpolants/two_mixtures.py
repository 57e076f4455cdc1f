"""The one-dimensional test problem: two Gaussians become three."""

from __future__ import annotations

from edmfast import analytic

BASE = analytic.GaussianMixture([[-3.0], [3.0]], [0.5, 0.5])
DATA = analytic.GaussianMixture([[-6.0], [0.0], [6.0]], [0.5**0.5, 0.33**0.5, 0.5**0.5])
VARIANCE = 24 + (0.5 + 0.33 + 0.5) / 3
"""The variance of the data, 24.4433."""
