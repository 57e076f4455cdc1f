"""RNE, the Radon–Nikodym estimator, with a reference process: He et al. 2025, arXiv 2506.05668.

For any pair of states Bayes' rule gives log p_u(x_u)/p_s(x_s) = log q(x_u | x_s)/N(x_s; x_u, tau² I) with the true
reversal q. RNE puts the discretised reversal in its place. The error of that is reduced by a reference process
with the same noise, whose densities are known: its own estimate is subtracted and its exact ratio is added. The
reference here is a Gaussian of standard deviation c. If the discretised reversal has the variance of the
reference's true reversal, kappa tau² with kappa = (u² + c²)/(s² + c²), then both parts of the reference cancel:

    Δlog p_i = log N(x_u; x_s + tau² s_i, kappa tau² I) - log N(x_s; x_u, tau² I).

The weight of a step is sum_i a_i Δlog p_i + log L(x_s | x_u) - log M(x_u | x_s). The estimate holds only along
paths with the noise of the diffusion, so M has a variance of about tau². Assumed here: with
S = sum_i a_i s_i and A = sum_i a_i

    M = N(x_s + (tau²/2)(S + S/A), v_M I),    L = N(x_u + (tau²/2)(S - S/A)(x_u), v_L I),

with the variances for which M and L are time reversals of each other on the reference to the power A: the weights
are then constant where every p_i is the reference. Without a reference, with kappa = 1, M = N(x_s + tau² S,
tau² I) and L = N(x_u, tau² I), the weight is that of Feynman–Kac correctors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from bench.rivals.control.filtering import Moved, State, follow, log_normal, normals
from bench.rivals.control.outcome import Outcome
from bench.rivals.control.terms import Terms


def path_ratios(
    terms: Terms,
    shape: Sequence[int],
    levels: Sequence[float],
    *,
    particles: int,
    populations: int,
    seed: int,
    reference_std: float,
    threshold: float = 0.5,
) -> Outcome:
    """Return an outcome. reference_std: c, the standard deviation of the reference, in units of x."""
    total = terms.total
    forth, back = 0.5 * (1 + 1 / total), 0.5 * (1 - 1 / total)

    def step(state: State, s: float, u: float, generator: torch.Generator) -> Moved:
        x, tau2 = state.x, s**2 - u**2
        start, end = s**2 + reference_std**2, u**2 + reference_std**2
        shrink = 1 - forth * total * tau2 / start
        v_m = (end - shrink**2 * start) / total
        if v_m <= 0:
            raise ValueError(f"the step from {s:g} to {u:g} is too long for the reference")
        v_l = v_m * start / end
        scores = terms.scores(x, s) if state.scores is None else state.scores.movedim(2, 0)
        drift = forth * tau2 * terms.combined(scores)
        noise = math.sqrt(v_m) * normals(x, generator)
        moved = x + drift + noise
        scores_there = terms.scores(moved, u)
        ratios = torch.stack(
            [log_normal(drift + noise - tau2 * score, end / start * tau2) for score in scores]
        )
        ratio = terms.combined(ratios - log_normal(drift + noise, tau2))
        drift_back = back * tau2 * terms.combined(scores_there)
        kernels = log_normal(drift + noise + drift_back, v_l) - log_normal(noise, v_m)
        return Moved(moved, ratio + kernels, scores_there.movedim(0, 2))

    return follow(
        step,
        terms,
        shape,
        levels,
        particles=particles,
        populations=populations,
        seed=seed,
        threshold=threshold,
    )
