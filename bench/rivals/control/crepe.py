"""CREPE: replica exchange along the noise levels, with energies. He et al. 2025, arXiv 2509.23265.

One chain holds a state at every noise level. A swap of the states x_s and x_u of neighbouring levels s > u
proposes x_u' ~ M(. | x_s), a denoising move, and x_s' ~ L(. | x_u), a noising move. It is accepted with the
probability min(1, G(x_s, x_u')/G(x_s', x_u)), where

    G(x_s, x_u) = pi_u(x_u) L(x_s | x_u)/(pi_s(x_s) M(x_u | x_s)),    pi = exp(-U),

is the weight that sequential Monte Carlo would give the move. So each chain is the dual of a particle filter: it
has many levels at once, and one sample after the other. Even and odd pairs take turns (Syed et al. 2022, arXiv
1905.02939). A fresh draw of N(0, (sigma_max²/A) I) is proposed to the highest level whenever its pair waits.
Assumed here, where the paper leaves a choice:

- M = N(x_s + tau² S/A, kappa tau²/A I) and L = N(x_u, tau²/A I) with kappa = (u² + c²)/(s² + c²), the reversal of
  Gaussian data of standard deviation c, which needs no derivative of the score;
- the fresh draw is accepted by its Metropolis ratio, as the highest level is not exactly that Gaussian;
- chains start from a pass of the moves M, and the first sweeps are left out: twice the number of levels, or half
  of all sweeps where these are fewer;
- there are no other moves within a level, since M and L bring noise of their own.

The number of sweeps is that of the particles, so that a run costs what a filter of as many particles costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bench.rivals.control.filtering import normals
from bench.rivals.control.outcome import Outcome
from bench.rivals.control.terms import Terms


class _States(NamedTuple):
    """States at several levels of each chain. x, score: [P, L, D]. energy: [P, L]. origins: int64 [P, L]."""

    x: Tensor
    energy: Tensor
    score: Tensor
    origins: Tensor

    def at(self, index: Tensor) -> _States:
        return _States(*(part[:, index] for part in self))

    def put(self, index: Tensor, others: _States, accepted: Tensor) -> None:
        """Put the accepted [P, L] of the other states at the index."""
        for part, other in zip(self, others, strict=True):
            chosen = accepted.view(accepted.shape + (1,) * (part.dim() - 2))
            part[:, index] = torch.where(chosen, other, part[:, index])


class _Ladder:
    """The target at all levels, and the moves between neighbouring ones."""

    def __init__(
        self, terms: Terms, shape: Sequence[int], levels: Sequence[float], data_std: float
    ) -> None:
        self.terms, self.shape, self.total = terms, shape, terms.total
        variances = torch.tensor(levels, dtype=torch.float64).square()
        self.sigma = variances.sqrt()
        self.tau2 = (variances[:-1] - variances[1:])[:, None]
        kappa = (variances[1:] + data_std**2) / (variances[:-1] + data_std**2)
        self.down, self.up = kappa[:, None] * self.tau2 / self.total, self.tau2 / self.total

    def evaluate(self, x: Tensor, levels: Tensor, origins: Tensor) -> _States:
        rows = x.reshape(-1, *self.shape)
        energy, score = self.terms.energy_and_score(rows, self.sigma[levels].repeat(len(x)))
        return _States(x, energy.double().view(x.shape[:2]), score.view_as(x), origins)

    def denoise(self, states: _States, upper: Tensor, generator: torch.Generator) -> Tensor:
        """Return draws of M from states of the levels `upper`."""
        noise = self.down[upper].sqrt() * normals(states.x, generator)
        return states.x + self.tau2[upper] * states.score / self.total + noise

    def noise(self, states: _States, upper: Tensor, generator: torch.Generator) -> Tensor:
        """Return draws of L from states one level below `upper`."""
        return states.x + self.up[upper].sqrt() * normals(states.x, generator)

    def log_gain(self, above: _States, below: _States, upper: Tensor) -> Tensor:
        """Return log G [P, L] of the moves from the states above to those below."""
        drift = self.tau2[upper] * above.score / self.total
        kernels = _log_normal(above.x - below.x, self.up[upper]) - _log_normal(
            below.x - above.x - drift, self.down[upper]
        )
        return above.energy - below.energy + kernels

    def log_start(self, states: _States) -> Tensor:
        """Return log pi - log N(0, (sigma_max²/A) I) [P, 1] at the highest level, up to a constant."""
        squares = states.x.square().sum(2)
        return 0.5 * self.total * squares / self.sigma[0].square() - states.energy


def replica_exchange(
    terms: Terms,
    shape: Sequence[int],
    levels: Sequence[float],
    *,
    particles: int,
    populations: int,
    seed: int,
    data_std: float,
) -> Outcome:
    """Return an outcome whose particles are the states of the lowest level after every sweep.

    Those of the first sweeps have the log-weight -inf. particles: number of sweeps. populations: number of
    chains. data_std: c, in units of x. The variance is that of log G over the sweeps. The ancestors are the fresh
    draws that have reached the lowest level, as a share of the particles.
    """
    generator = torch.Generator().manual_seed(seed)
    ladder = _Ladder(terms, shape, levels, data_std)
    count, elements = len(levels), math.prod(shape)
    start, top = levels[0] / math.sqrt(terms.total), torch.zeros(1, dtype=torch.long)
    like = torch.empty(populations, 1, elements, dtype=torch.float64)
    chain = _first_pass(ladder, start * normals(like, generator), generator)
    burn_in = min(2 * count, particles // 2)
    cold, roots = [], []
    gains = torch.full((particles, populations, count - 1), math.nan, dtype=torch.float64)
    for sweep in range(particles):
        upper = torch.arange(sweep % 2, count - 1, 2)
        above, below = chain.at(upper), chain.at(upper + 1)
        proposals = [ladder.denoise(above, upper, generator), ladder.noise(below, upper, generator)]
        places, origins = [upper + 1, upper], [above.origins, below.origins]
        if sweep % 2:  # the highest level is free
            proposals.append(start * normals(like, generator))
            places.append(top)
            origins.append(torch.full_like(chain.origins[:, :1], sweep + 1))
        proposed = ladder.evaluate(
            torch.cat(proposals, 1), torch.cat(places), torch.cat(origins, 1)
        )
        pairs = len(upper)
        new_below, new_above = (proposed.at(torch.arange(pairs) + offset) for offset in (0, pairs))
        forth = ladder.log_gain(above, new_below, upper)
        back = ladder.log_gain(new_above, below, upper)
        accepted = _accept(forth - back, generator)
        chain.put(upper, new_above, accepted)
        chain.put(upper + 1, new_below, accepted)
        if sweep % 2:
            fresh = proposed.at(torch.tensor([-1]))
            ratio = ladder.log_start(fresh) - ladder.log_start(chain.at(top))
            chain.put(top, fresh, _accept(ratio, generator))
        gains[sweep, :, upper] = forth
        cold.append(chain.x[:, -1].clone())
        roots.append(chain.origins[:, -1].clone())
    log_weights = torch.zeros(populations, particles, dtype=torch.float64)
    log_weights[:, :burn_in] = -math.inf
    x = torch.stack(cold, 1).view(populations, particles, *shape)
    kept = [len(row.unique()) / particles for row in torch.stack(roots, 1)[:, burn_in:]]
    # every sweep evaluates each level once on average, and so does the first pass
    evaluations = len(terms.models) * count
    variance, gain = _moments(gains[burn_in:])
    return Outcome(
        x,
        log_weights,
        variance,
        terms.log_z_of_start(levels[0], elements) + gain,
        torch.tensor(kept, dtype=torch.float64),
        evaluations,
        evaluations,
    )


def _first_pass(ladder: _Ladder, x: Tensor, generator: torch.Generator) -> _States:
    """Return states at all levels, from moves M that start at x [P, 1, D]."""
    states = []
    for level in torch.arange(len(ladder.sigma)).split(1):
        states.append(ladder.evaluate(x, level, torch.zeros(x.shape[:2], dtype=torch.long)))
        if level < len(ladder.sigma) - 1:
            x = ladder.denoise(states[-1], level, generator)
    return _States(*(torch.cat(parts, 1) for parts in zip(*states, strict=True)))


def _accept(log_ratio: Tensor, generator: torch.Generator) -> Tensor:
    uniforms = torch.rand(log_ratio.shape, generator=generator, dtype=torch.float64)
    return uniforms.log() < log_ratio


def _log_normal(difference: Tensor, variance: Tensor) -> Tensor:
    """Return log N(difference; 0, variance I) [P, L] of [P, L, D], without the factor of 2 pi."""
    exponent = difference.square().sum(2) / variance[:, 0]
    return -0.5 * (exponent + difference.shape[2] * variance[:, 0].log())


def _moments(gains: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variance of log G and the log of its mean, each [P], summed over the steps.

    gains: [sweeps, P, K - 1], NaN where a pair waited.
    """
    variance, log_z = torch.zeros(2, gains.shape[1], dtype=torch.float64)
    for step in gains.unbind(2):
        counted = step[~step[:, 0].isnan()]
        variance = variance + counted.var(0)
        log_z = log_z + counted.logsumexp(0) - math.log(len(counted))
    return variance, log_z
