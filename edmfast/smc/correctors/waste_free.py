"""Waste-free sequential Monte Carlo: all states of the chains are particles.

Of N = M L particles only M ancestors are chosen, and each is moved L - 1 times by kernels that leave the target
invariant; the L states of the M chains are the next N particles, of equal weight. Systematic resampling of
M particles is every L-th slot of systematic resampling of N, from an offset that is uniform in 0..L-1 and shared
by the population: slot k stands at (k + u)/N, and (offset + u)/L is uniform too. (A fixed offset is biased: the
uniform covers only an L-th of its range.) The same slots are unbiased for any other unbiased scheme for N.
Source: Dau and Chopin 2022, "Waste-free sequential Monte Carlo", arXiv 2011.02328.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edmfast._internal.broadcast import unsqueeze_like
from edmfast.ops import standard_normal
from edmfast.smc.correctors import Corrector, correct
from edmfast.smc.correctors.transition import Chains, Evaluate
from edmfast.smc.populations.gather import take

_OFFSET_STREAM = 10


class WasteFree(NamedTuple):
    """The particles after waste-free moves.

    x, energy, score: of the new particles. slots: int64 [P, N], the slot whose ancestor each descends from.
    log_steps, acceptance: float64 [C, P], as `correct` returns them.
    """

    x: Tensor
    energy: Tensor
    score: Tensor
    slots: Tensor
    log_steps: Tensor
    acceptance: Tensor


def waste_free(
    correctors: Sequence[Corrector],
    evaluate: Evaluate,
    chains: Chains,
    ancestors: Tensor,
    resampled: Tensor,
    length: int,
    *,
    sigma: float | Tensor,
    exponent: float | Tensor,
    log_steps: Tensor,
    rng: Tensor,
    first_population: int = 0,
) -> WasteFree:
    """Return the particles after the moves. Populations that were not resampled stay as they are.

    chains: x, score [P, N, *shape] and energy [P, N] at sigma, before ancestors int32 [P, N] choose among them.
    resampled: bool [P]. length: L, which divides N. Other arguments as in `correct`. One move is all `steps`
    transitions of each corrector. The cost is (L - 1)/L of a move for each particle, also in populations that were
    not resampled, since nothing is read on the host.
    """
    populations, particles = ancestors.shape
    slots = chain_slots(rng, populations, particles, length, first_population)
    first = ancestors.gather(1, slots)
    current = Chains(*(take(tensor, first) for tensor in chains))
    states, acceptances = [current], []
    draws = sum(corrector.nfe for corrector in correctors)
    for move in range(length - 1):
        *moved, log_steps, acceptance = correct(
            correctors,
            evaluate,
            *current,
            sigma=sigma,
            exponent=exponent,
            log_steps=log_steps,
            rng=rng,
            first_population=first_population,
            # Every move needs random numbers of its own at this level.
            first_draw=move * draws,
        )
        current = Chains(*moved)
        states.append(current)
        acceptances.append(acceptance)
    joined = (torch.stack(parts, 2).flatten(1, 2) for parts in zip(*states, strict=True))
    x, energy, score = (
        torch.where(unsqueeze_like(resampled, new), new, old)
        for new, old in zip(joined, chains, strict=True)
    )
    identity = torch.arange(particles, device=slots.device)
    slots = torch.where(resampled[:, None], slots.repeat_interleave(length, 1), identity)
    return WasteFree(x, energy, score, slots, log_steps, torch.stack(acceptances).mean(0))


def chain_slots(
    rng: Tensor, populations: int, particles: int, length: int, first_population: int
) -> Tensor:
    """Return every length-th of N slots, from the offset of the population: int64 [P, N / length]."""
    # The chains of a population share one offset.
    like = torch.empty(populations, 1, 2, dtype=torch.float64, device=rng.device)
    z = standard_normal(like, rng=rng, stream=_OFFSET_STREAM, first_population=first_population)
    # exp(-|z|²/2) of two normals is a uniform
    point = (-0.5 * (z[:, 0, 0].square() + z[:, 0, 1].square())).exp()
    # The uniform is 1 where both normals are 0.
    offset = (point * length).long().clamp(max=length - 1)
    return offset[:, None] + torch.arange(0, particles, length, device=rng.device)
