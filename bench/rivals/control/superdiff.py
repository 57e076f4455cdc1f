"""SuperDiff AND, without weights: paths along which the densities of all models change alike.

Source: Skreta et al. 2024, arXiv 2412.17762. `smc.sample(proposal="superdiff")` is this law. It knows products of
exponents 1 only, and its paths do not follow the law of the product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.rivals.control.outcome import Outcome, from_particles
from bench.rivals.control.terms import Terms
from edmfast import Product, smc


def superdiff(
    terms: Terms,
    shape: Sequence[int],
    levels: Sequence[float],
    *,
    particles: int,
    populations: int,
    seed: int,
) -> Outcome:
    """Return an outcome with equal weights."""
    run = smc.sample(
        Product([*terms.models], exponents=[*terms.exponents]),
        shape,
        levels,
        particles=particles,
        populations=populations,
        proposal="superdiff",
        seed=seed,
        options=smc.RunOptions(dtype=torch.float64),
    )
    return from_particles(run, terms.exponents)
