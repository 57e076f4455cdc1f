"""Sums of tensors with coefficients, and with the noise of one step of an SDE, in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edmfast.ops.linear_combination import linear_combination

# Other users of the generator have other streams, so equal seeds draw different numbers there.
_STREAM = 15


@dataclass(frozen=True)
class RunNoise:
    """The noise weight_i z(seed, i) of all steps i of a run, as a function of the sample and the step alone.

    seeds: int64 [1], or [B] with one seed for each sample. first_sample: the index of the first sample of the
    batch, where all samples share a seed. steps: int64 [T]. weights: float64 [T], in the units of the states.
    """

    seeds: Tensor
    first_sample: int
    steps: Tensor
    weights: Tensor


def run_noise(seeds: Tensor, first_sample: int, weights: Sequence[float]) -> RunNoise:
    """Return the noise of a run, whose numbers reach the device in one copy."""
    # a sample with a seed of its own has the index 0
    first = first_sample if len(seeds) == 1 else 0
    numbers = torch.tensor(weights, dtype=torch.float64).to(seeds.device, non_blocking=True)
    return RunNoise(seeds, first, torch.arange(len(weights), device=seeds.device), numbers)


def weighted_sum(
    tensors: Sequence[Tensor],
    coefficients: Sequence[float],
    noise: RunNoise | None = None,
    step: int = 0,
) -> Tensor:
    """Return sum_k c_k T_k, and the noise of a step, like the tensors."""
    if noise is None:
        return linear_combination(tensors, coefficients)
    return linear_combination(
        tensors,
        coefficients,
        seeds=noise.seeds,
        nodes=noise.steps[step : step + 1],
        weights=noise.weights[step : step + 1],
        stream=_STREAM,
        first_sample=noise.first_sample,
    )
