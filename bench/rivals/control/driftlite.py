"""DriftLite: a drift that is fitted on the fly to cut the variance of the weights.

Source: Ren et al. 2025, arXiv 2509.21655, the variance-controlling guidance. This file is a reconstruction from
the idea that the abstract states: the Fokker–Planck equation leaves one freedom between the drift and the
potential that weighs the particles. With delta = tau²/2 and S = sum_i a_i s_i, particles that move by

    x_u = x_s + delta (2 S + b) + tau z

follow the product if their log-weights grow by delta (|S|² - sum_i a_i |s_i|² + div b + <b, S>), for any field b:
the last two terms are div(b q)/q for q = prod_i p_i^(a_i). Without b this is the target-score process of
Feynman–Kac correctors. Assumed here, where the abstract gives no detail:

- b = sum_j theta_j b_j with the fields b_j = s_i of all models, and x - m with the weighted mean m;
- theta minimises the weighted variance of the increment over the particles at every step, a linear least-squares
  problem with a ridge of 1e-6 of its diagonal;
- div s_i is an exact trace, or comes from Rademacher probes; the same traces fit theta and enter the weights.

On Gaussians of one isotropic covariance the weights become constant as the steps go to zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.rivals.control.filtering import Moved, State, follow, normals
from bench.rivals.control.outcome import Outcome
from bench.rivals.control.terms import Terms

_RIDGE = 1e-6


def drift_control(
    terms: Terms,
    shape: Sequence[int],
    levels: Sequence[float],
    *,
    particles: int,
    populations: int,
    seed: int,
    probes: int = 0,
    threshold: float = 0.5,
) -> Outcome:
    """Return an outcome. probes: those of each trace, 0 for exact traces."""
    elements = math.prod(shape)

    def step(state: State, s: float, u: float, generator: torch.Generator) -> Moved:
        x, tau2 = state.x.flatten(2), s**2 - u**2
        scores, traces = terms.scores_and_traces(state.x, s, probes, generator)
        scores = scores.flatten(3)
        total = terms.combined(scores)
        weights = state.log_weights.softmax(1)
        mean = torch.einsum("pn,pnd->pd", weights, x)[:, None]
        fields = torch.cat([scores, (x - mean)[None]])
        divergences = torch.cat([traces, torch.full_like(traces[:1], elements)])
        effects = divergences + (fields * total).sum(3)
        excess = total.square().sum(2) - terms.combined(scores.square().sum(3))
        theta = _least_squares(effects, excess, weights)
        control = torch.einsum("jp,jpnd->pnd", theta, fields)
        potential = excess + torch.einsum("jp,jpn->pn", theta, effects)
        moved = x + tau2 * total + 0.5 * tau2 * control + math.sqrt(tau2) * normals(x, generator)
        return Moved(moved.view_as(state.x), 0.5 * tau2 * potential)

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


def _least_squares(effects: Tensor, excess: Tensor, weights: Tensor) -> Tensor:
    """Return theta [J, P] that minimises the weighted variance of excess + sum_j theta_j effects_j.

    effects: [J, P, N]. excess, weights: [P, N].
    """
    centred = effects - (weights * effects).sum(2, keepdim=True)
    covariances = torch.einsum("pn,ipn,jpn->pij", weights, centred, centred)
    with_excess = torch.einsum("pn,ipn,pn->pi", weights, centred, excess)
    # each field has its own unit, so the fields are scaled before the ridge is added
    scale = covariances.diagonal(dim1=1, dim2=2).sqrt().clamp_min(torch.finfo(effects.dtype).tiny)
    correlations = covariances / (scale[:, :, None] * scale[:, None, :])
    ridge = _RIDGE * torch.eye(len(effects), dtype=effects.dtype)
    solution = torch.linalg.solve(correlations + ridge, -(with_excess / scale)[..., None])
    return (solution[..., 0] / scale).T
