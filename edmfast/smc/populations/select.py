"""Resampling to a single particle: all slots of a population take one ancestor, drawn with the weights.

This is the step of SVDD (soft value-based decoding, Li et al. 2024, arXiv 2408.08252): a population is the
set of candidates among which the next state is chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.ops import Weights, resample

SELECT = "select"


def select_one(weights: Weights, rng: Tensor, first_population: int) -> Weights:
    """Return the weights after every population with a positive weight has chosen one ancestor for all slots."""
    chosen = resample(weights.log_weights, rng, count=1, first_population=first_population)
    resampled = chosen.resampled[:, None]
    ancestors = torch.where(resampled, chosen.ancestors, weights.ancestors)
    return weights._replace(
        # The slots go on with equal weights, so the mean weight before the choice moves into Z.
        log_z=weights.log_z + torch.where(chosen.resampled, weights.log_mean, 0.0),
        ancestors=ancestors,
        root=weights.root.gather(1, ancestors.long()),
        resampled=chosen.resampled,
        survivors=torch.where(chosen.resampled, 1, weights.survivors),
    )
