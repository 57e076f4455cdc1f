"""Feynman–Kac correctors with the settings of their paper: Skreta et al. 2025, arXiv 2503.02819.

For p^beta the paper moves by the drift (beta + (1 - beta) a) tau² s with noise of variance
(beta + (1 - beta) 2 a) tau²/beta for an a in [0, 1/2], and adds beta (beta - 1) tau² |s|²/2 to the log-weights
(its propositions for annealing, in a variance-exploding diffusion). a = 0 is its "target score" process and
a = 1/2 its "tempered noise" process. `smc.sample(weights="score", proposal=FeynmanKacProposal(eta))` is the same
law, with eta = 1 for target score and eta = 1/beta for tempered noise, and its products are those of the paper
too. A test compares a step with the formulas above, so this file calls `smc.sample`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.rivals.control.outcome import Outcome, from_particles
from bench.rivals.control.terms import Terms
from edmfast import Product, smc


def feynman_kac_corrector(
    terms: Terms,
    shape: Sequence[int],
    levels: Sequence[float],
    *,
    particles: int,
    populations: int,
    seed: int,
    threshold: float = 0.5,
    tempered_noise: bool = False,
) -> Outcome:
    """Return an outcome of the target-score process, or of the tempered-noise process."""
    run = smc.sample(
        Product([*terms.models], exponents=[*terms.exponents]),
        shape,
        levels,
        particles=particles,
        populations=populations,
        weights="score",
        proposal=smc.FeynmanKacProposal(1 / terms.total if tempered_noise else 1.0),
        ess_threshold=threshold,
        seed=seed,
        # weights that vary much are what is measured
        options=smc.RunOptions(dtype=torch.float64, on_degenerate="ignore"),
    )
    return from_particles(run, terms.exponents)
