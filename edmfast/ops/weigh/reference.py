"""The weights of a step of sequential Monte Carlo and its resampling in plain torch, with the bits of the kernels.

increment = R - sum_k a_k (E_k(x_u, u) - E_k(x_s, s)), where the energies before the move are read through the
ancestors of the last resampling; log W = increment + (0 where the population was resampled, else log W before).
Adaptive resampling follows. Where it resamples, log Z grows by the log-mean-weight, and the roots are those of
the new ancestors. Only the standard deviation of the increments may differ from the kernels', by rounding.
Sources: Thornton et al. 2025, arXiv 2502.12786; Del Moral, Doucet and Jasra 2006.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edmfast.ops._shared.roots import count_roots
from edmfast.ops._shared.sums import population_sd
from edmfast.ops.resample.reference import SCHEMES, resample


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
    """Return (log-weights, increments), float64 [P, N]."""
    # log-weights accumulate over a whole run, so they are float64 whatever the states are
    increments = ratio.double()
    # where nothing was resampled, ancestors are the identity and are not read
    index = torch.arange(ancestors.shape[1], device=ancestors.device)
    index = torch.where(resampled[:, None], ancestors.long(), index)
    for k, (now, before) in enumerate(zip(energies, energies_before, strict=True)):
        change = now.double() - before.double().gather(1, index)
        increments = increments - (change if exponents is None else exponents[:, k, None] * change)
    kept = torch.where(resampled[:, None], 0.0, log_weights)
    if weigh:
        # a particle of weight zero keeps it, since its energies may be infinite before and after a move
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
    """See `edmfast.ops.weigh_and_resample`; `scheme` is an index into SCHEMES."""
    log_weights, increments = accumulate(
        log_weights, ancestors, resampled, ratio, energies, energies_before, exponents, weigh
    )
    ancestors, log_mean, ess, resampled, seen = resample(
        log_weights, rng, log_weights.shape[1], ess_threshold, scheme, first_population
    )
    root = root.gather(1, ancestors.long())
    return (
        log_weights.contiguous(),
        log_z + torch.where(resampled, log_mean, 0.0),
        ancestors,
        root,
        ess,
        log_mean,
        resampled,
        degenerate | seen,
        population_sd(increments),
        count_roots(root, together=SCHEMES[scheme] != "killing"),
    )
