"""Waste-free sequential Monte Carlo: all states of the chains are particles.

Of N = M L particles only M ancestors are chosen, and each is moved L - 1 times by kernels that leave the target
invariant; the L states of the M chains are the next N particles, of equal weight. Systematic resampling of
M is every L-th slot of systematic resampling of N, from an offset that is uniform in 0..L-1 and shared by the
population: slot k stands at (k + u)/N, and (offset + u)/L is uniform too. (From a fixed offset the uniform
would cover an L-th of its range only: biased.) Of any other unbiased scheme for N the same slots are unbiased.
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
    """x, energy, score of the new particles; slots int64 [P, N]: the slot whose ancestor each descends from;
    log_steps, acceptance float64 [C, P] as of `correct`."""

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
    """The particles after a resampling decision, where a population was resampled; as they were elsewhere.

    chains: x, score [P, N, *shape], energy [P, N] at sigma, before the ancestors int32 [P, N] choose among
    them. resampled: bool [P]. length: L, which divides N. One move is all `steps` transitions of each
    corrector. Costs (L - 1)/L of it for each particle, in populations that were not resampled too: nobody
    reads on the host which they are.
    """
    populations, particles = ancestors.shape
    slots = chain_slots(rng, populations, particles, length, first_population)
    first = ancestors.gather(1, slots)
    now = Chains(*(take(tensor, first) for tensor in chains))
    states, accepted = [now], []
    draws = sum(corrector.nfe for corrector in correctors)
    for move in range(length - 1):
        *moved, log_steps, acceptance = correct(
            correctors,
            evaluate,
            *now,
            sigma=sigma,
            exponent=exponent,
            log_steps=log_steps,
            rng=rng,
            first_population=first_population,
            first_draw=move * draws,
        )
        now = Chains(*moved)
        states.append(now)
        accepted.append(acceptance)
    joined = (torch.stack(parts, 2).flatten(1, 2) for parts in zip(*states, strict=True))
    x, energy, score = (
        torch.where(unsqueeze_like(resampled, new), new, old)
        for new, old in zip(joined, chains, strict=True)
    )
    everyone = torch.arange(particles, device=slots.device)
    slots = torch.where(resampled[:, None], slots.repeat_interleave(length, 1), everyone)
    return WasteFree(x, energy, score, slots, log_steps, torch.stack(accepted).mean(0))


def chain_slots(
    rng: Tensor, populations: int, particles: int, length: int, first_population: int
) -> Tensor:
    """Every length-th of N slots, from the population's offset: int64 [P, N / length]."""
    like = torch.empty(populations, 1, 2, dtype=torch.float64, device=rng.device)
    z = standard_normal(like, rng=rng, stream=_OFFSET_STREAM, first_population=first_population)
    # exp(-|z|²/2) of two normals is a uniform
    point = (-0.5 * (z[:, 0, 0].square() + z[:, 0, 1].square())).exp()
    offset = (point * length).long().clamp(max=length - 1)
    return offset[:, None] + torch.arange(0, particles, length, device=rng.device)
