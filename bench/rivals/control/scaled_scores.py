"""Scaled or added scores without weights: ancestral sampling with S = sum_i a_i s_i in the place of a score.

    x_u = x_s + tau² S + tau (u/s) z,    starting from N(0, sigma_max² I)

This does not sample the product, because S is not the score of the noised product. Source: Ho and Salimans 2022,
arXiv 2207.12598, scale guidance in this way, and Du et al. 2023, arXiv 2302.11552, show what it does to products.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

from bench.rivals.control.filtering import normals
from bench.rivals.control.outcome import Outcome
from bench.rivals.control.terms import Terms


def scaled_scores(
    terms: Terms,
    shape: Sequence[int],
    levels: Sequence[float],
    *,
    particles: int,
    populations: int,
    seed: int,
) -> Outcome:
    """Return an outcome with equal weights. levels: strictly decreasing and positive, in units of x."""
    generator = torch.Generator().manual_seed(seed)
    empty = torch.empty(populations, particles, *shape, dtype=torch.float64)
    x = levels[0] * normals(empty, generator)
    for s, u in itertools.pairwise(levels):
        tau2 = s**2 - u**2
        noise = math.sqrt(tau2) * u / s * normals(x, generator)
        x = x + tau2 * terms.combined(terms.scores(x, s)) + noise
    equal = torch.zeros(populations, particles, dtype=torch.float64)
    nothing = torch.zeros(populations, dtype=torch.float64)
    return Outcome(x, equal, nothing, None, nothing + 1, terms.forwards, terms.vjps)
