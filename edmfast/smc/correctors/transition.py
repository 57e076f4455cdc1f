"""Make one transition of a corrector on all chains [P, N], with a Metropolis decision for each chain.

Along the trajectory Delta = U(x_L) - U(x_0) + the sum of the changes of |v|²/2 over the leapfrog steps. The
renewals of momenta in between leave N(0, I) invariant and are reversible, so they do not count. A move is accepted
with probability min(1, exp(-Delta)) (Riou-Durand and Vogrinc 2022). Each leapfrog step preserves volume, and the
reversed momenta undo it, whatever field S is, so this is exact for every S. For one step exp(-Delta) is MALA's
ratio: the densities of both proposals, N(x + (h²/2) S, h² I), are in the momenta.

A move to an energy that is not finite (a wall, or a fault) is never accepted, not even by the unadjusted kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from edmfast._internal.broadcast import population_factors, unsqueeze_like
from edmfast.ops import standard_normal
from edmfast.ops._shared.sums import population_sum
from edmfast.smc.correctors.kinds import Corrector

MOMENTA_STREAM, DECISION_STREAM = 7, 9
LEVEL_BITS = 20
"""A step of the noise counter is level + 2^20 draw, with levels below 2^20 and draws at one level below 2^12."""
MOST_DRAWS = 1 << (32 - LEVEL_BITS)

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A function that maps x [P, N, *shape] to (energy [P, N], score like x) at the noise level of the chains."""


class Chains(NamedTuple):
    """The states of chains: x [P, N, *shape], with energy [P, N] and score [P, N, *shape] of the target at x."""

    x: Tensor
    energy: Tensor
    score: Tensor


class Noise(NamedTuple):
    """The source of random numbers: rng int64 [2] = (seed, level), and the first draw that is not used yet."""

    rng: Tensor
    draw: int
    first_population: int

    def normal(self, like: Tensor, stream: int, offset: int = 0) -> Tensor:
        """Return standard normal numbers like `like`, from the draw at an offset of a stream."""
        draw = (self.draw + offset) << LEVEL_BITS
        rng = torch.stack((self.rng[0], self.rng[1] + draw))
        first = self.first_population
        return standard_normal(like, rng=rng, stream=stream, first_population=first)


def transition(
    corrector: Corrector,
    evaluate: Evaluate,
    chains: Chains,
    step: Tensor,
    friction: Tensor,
    noise: Noise,
) -> tuple[Chains, Tensor]:
    """Return the chains after one transition, and each chain's probability of being moved, float64 [P, N].

    step: the leapfrog length float64 [P], in units of x. friction: float64 [P], the friction times that length.
    """
    x, energy, score = chains
    length = population_factors(step, x, x.dtype)
    v = since = noise.normal(x, MOMENTA_STREAM)
    kinetic = torch.zeros_like(energy, dtype=torch.float64)
    for k in range(corrector.leapfrog_steps):
        if k > 0 and corrector.friction > 0:
            # A renewal leaves N(0, I) invariant, so only the changes between renewals count.
            kinetic = kinetic + _kinetic_change(since, v)
            kept = population_factors((-friction).exp(), x, x.dtype)
            # expm1 keeps the digits of 1 - c² for little friction.
            fresh = population_factors((-torch.expm1(-2 * friction)).sqrt(), x, x.dtype)
            v = since = kept * v + fresh * noise.normal(x, MOMENTA_STREAM, k)
        half = v + 0.5 * length * score
        x = x + length * half
        energy, score = evaluate(x)
        v = half + 0.5 * length * score
    # A wall or a fault is never entered, not even without a Metropolis decision.
    possible = energy.isfinite()
    if corrector.adjusted:
        kinetic = kinetic + _kinetic_change(since, v)
        log_ratio = chains.energy.double() - energy.double() - kinetic
        possible = possible & ~log_ratio.isnan()
        # -log u is compared instead of u, because exp(log_ratio) may underflow.
        accepted = possible & (_exponential(chains.energy, noise) > -log_ratio)
        # Step sizes adapt to the probability, which varies less than the decision.
        probability = torch.where(possible, log_ratio.clamp(max=0.0).exp(), 0.0)
    else:
        accepted, probability = possible, possible.double()
    where = unsqueeze_like(accepted, x)
    moved = Chains(
        torch.where(where, x, chains.x),
        torch.where(accepted, energy, chains.energy),
        torch.where(where, score, chains.score),
    )
    return moved, probability


def _kinetic_change(before: Tensor, after: Tensor) -> Tensor:
    """Return (|after|² - |before|²)/2, float64 [P, N], from differences, since both are of the size of d."""
    a, b = before.double().flatten(0, 1).flatten(1), after.double().flatten(0, 1).flatten(1)
    return 0.5 * population_sum((b - a) * (b + a)).reshape(before.shape[:2])


def _exponential(like: Tensor, noise: Noise) -> Tensor:
    """Return -log of a uniform for each chain, float64 [P, N]: half the squared length of two normals."""
    pair = like.new_empty((*like.shape, 2))
    z = noise.normal(pair, DECISION_STREAM).double()
    return 0.5 * (z[..., 0].square() + z[..., 1].square())
