"""Weighs a step of sequential Monte Carlo and resamples, in plain torch, the bits of the kernels.

increment = R - sum_k a_k (E_k(x_u, u) - E_k(x_s, s)), the energies before read through the ancestors of
the last resampling; log W = increment + (0 where the population was reset, else log W before). Then
adaptive resampling, log Z += log-mean-weight where resampled, and the roots of the new ancestors. Only
the standard deviation of the increments may differ from the kernels', by rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edmfast.ops._shared.sums import population_sd
from edmfast.ops.resample.reference import resample


def accumulate(
    log_weights: Tensor,
    ancestors: Tensor,
    resampled: Tensor,
    ratio: Tensor,
    energies: Sequence[Tensor],
    energies_before: Sequence[Tensor],
    exponents: Tensor | None,
    weigh: bool,
) -> tuple[Tensor, Tensor]:
    """(log-weights, increments), float64 [P, N]."""
    increments = ratio.double()
    # where nothing was resampled, ancestors are the identity and are not read
    index = torch.arange(ancestors.shape[1], device=ancestors.device)
    index = torch.where(resampled[:, None], ancestors.long(), index)
    for k, (now, before) in enumerate(zip(energies, energies_before, strict=True)):
        change = now.double() - before.double().gather(1, index)
        increments = increments - (change if exponents is None else exponents[:, k, None] * change)
    kept = torch.where(resampled[:, None], 0.0, log_weights)
    if weigh:
        # what weighs nothing does so for good: energies are infinite before and after a move
        kept = torch.where(kept == -torch.inf, kept, kept + increments)
    return kept, increments


def weigh_and_resample(
    log_weights: Tensor,
    log_z: Tensor,
    ancestors: Tensor,
    root: Tensor,
    resampled: Tensor,
    degenerate: Tensor,
    ratio: Tensor,
    energies: Sequence[Tensor],
    energies_before: Sequence[Tensor],
    exponents: Tensor | None,
    rng: Tensor,
    weigh: bool,
    ess_threshold: float,
    scheme: int,
    first_population: int,
) -> tuple[Tensor, ...]:
    """See `edmfast.ops.weigh_and_resample`; scheme indexes SCHEMES."""
    log_weights, increments = accumulate(
        log_weights, ancestors, resampled, ratio, energies, energies_before, exponents, weigh
    )
    ancestors, log_mean, ess, resampled, seen = resample(
        log_weights, rng, log_weights.shape[1], ess_threshold, scheme, first_population
    )
    return (
        log_weights,
        log_z + torch.where(resampled, log_mean, 0.0),
        ancestors,
        root.gather(1, ancestors.long()),
        ess,
        log_mean,
        resampled,
        degenerate | seen,
        population_sd(increments),
    )
