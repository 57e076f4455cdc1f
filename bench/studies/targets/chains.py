"""Reference samples of particle systems by Hamiltonian Monte Carlo: many independent chains side by side.

Momenta have no motion of the centre, so configurations stay centred. Each iteration takes a number of
leapfrog steps and accepts by Metropolis. The step size is adapted during burn-in, whose draws are discarded,
and fixed afterwards. The chains are independent, so standard errors are those of the means of whole chains.
`mixing` compares the spread between chains with that within them (Gelman and Rubin 1992): 1 where the chains
have forgotten their starts. Source: Duane et al. 1987; Neal 2011, arXiv 1206.1901.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from edmfast.analytic.systems import ParticleSystem

_WANTED_ACCEPTANCE = 0.8


class Chains(NamedTuple):
    """x float64 [draws, chains, particles, dimensions], centred; acceptance after burn-in; step size."""

    x: Tensor
    acceptance: float
    step: float

    @property
    def pooled(self) -> Tensor:
        """All draws, [draws chains, particles, dimensions]."""
        return self.x.flatten(0, 1)


def start(system: ParticleSystem, chains: int, generator: torch.Generator) -> Tensor:
    """Place particles at random on a cubic lattice of spacing 1.2, slightly displaced."""
    side = 1
    while side**system.dimensions < system.particles:
        side += 1
    axis = [torch.arange(side, dtype=torch.float64)] * system.dimensions
    lattice = torch.cartesian_prod(*axis)
    order = torch.rand(chains, len(lattice), generator=generator).argsort(1)[:, : system.particles]
    shape = (chains, system.particles, system.dimensions)
    shift = torch.randn(shape, generator=generator, dtype=torch.float64)
    return _centred(1.2 * lattice[order] + 0.05 * shift)


def run(
    system: ParticleSystem,
    *,
    chains: int,
    burn_in: int,
    draws: int,
    thin: int,
    leapfrog: int = 8,
    step: float = 0.02,
    seed: int = 0,
) -> Chains:
    """Run burn_in iterations, then take draws that lie `thin` iterations apart."""
    generator = torch.Generator().manual_seed(seed)
    x = start(system, chains, generator)
    energy, score = system.energy_and_score(x)
    kept, accepted_of = [], []
    for iteration in range(burn_in + draws * thin):
        p = _centred(torch.randn(x.shape, generator=generator, dtype=x.dtype))
        before = energy + 0.5 * p.square().flatten(1).sum(1)
        y, moved_energy, moved_score = x, energy, score
        p = p + 0.5 * step * moved_score
        for k in range(leapfrog):
            y = y + step * p
            moved_energy, moved_score = system.energy_and_score(y)
            p = p + (step if k + 1 < leapfrog else 0.5 * step) * moved_score
        after = moved_energy + 0.5 * p.square().flatten(1).sum(1)
        uniform = torch.rand(chains, generator=generator, dtype=x.dtype)
        accepted = uniform.log() < before - after  # False where a step met a wall and made NaN
        wide = accepted[:, None, None]
        x, score = torch.where(wide, y, x), torch.where(wide, moved_score, score)
        energy = torch.where(accepted, moved_energy, energy)
        rate = float(accepted.double().mean())
        if iteration < burn_in:
            step *= 1.05 if rate > _WANTED_ACCEPTANCE else 1 / 1.05
        else:
            accepted_of.append(rate)
            if (iteration - burn_in + 1) % thin == 0:
                kept.append(_centred(x))
    return Chains(torch.stack(kept), sum(accepted_of) / len(accepted_of), step)


def mixing(values: Tensor) -> float:
    """Return the potential scale reduction of a number [draws, chains]."""
    draws = len(values)
    within = values.var(0).mean()
    between = values.mean(0).var()
    return float(((draws - 1) / draws + between / within).sqrt())


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)
