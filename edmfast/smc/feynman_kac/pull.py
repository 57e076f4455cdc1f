"""Sums of scores, and moves that a reward pulls along: what the models without energies share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edmfast._internal.broadcast import population_factors
from edmfast.ops import score_gram, standard_normal
from edmfast.smc.populations.gather import take
from edmfast.smc.populations.local import Populations
from edmfast.smc.populations.particle_state import ParticleState
from edmfast.targets.exponents import Exponent


def weighted_sum(exponents: Sequence[Exponent], values: Tensor) -> Tensor:
    """Return sum_i a_i v_i [P, N, ...] from the first entries of values [M, P, N, ...], scores or energies.

    exponents: M of them, each a float or float64 [P]. A pull, which may be one more entry, is no part of the sum.
    """
    total: Tensor | None = None
    for a, value in zip(exponents, values, strict=False):
        factor = population_factors(a, value, value.dtype)
        # a number costs no pass of its own, and that of most models is 1
        if total is None:
            total = value if not isinstance(factor, Tensor) and factor == 1 else factor * value
        elif isinstance(factor, Tensor):
            total = total + factor * value
        else:
            total = torch.add(total, value, alpha=factor)
    assert total is not None
    return total


def log_ratio_without_pull(
    state: ParticleState, size: Tensor, v_m: Tensor, rng: Tensor, populations: Populations
) -> Tensor:
    """Return the log of a plain move's density over that of the move with a pull, float64 [P, N].

    The last entry of the scores of the state is the pull f', and the mean of the move holds size f' because of it.
    size, v_m: float64 [P, 1] or [P, N], v_m the variance of the move. rng: the state of the noise of the move.
    """
    # The counter gives the normals of the move once more, so the move need not keep them.
    z = standard_normal(
        state.x,
        rng=rng,
        first_population=populations.first_population,
        first_particle=populations.first_particle,
    )
    pull = take(state.score[-1].flatten(2), state.weights.ancestors)
    gram, along = score_gram(pull[None], z.flatten(2))
    spread = size.square() * gram[..., 0, 0] + 2 * size * v_m.sqrt() * along[..., 0]
    return -spread / (2 * v_m)
