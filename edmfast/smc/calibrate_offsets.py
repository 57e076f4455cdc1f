"""Measure the gauges of the members of a mixture, c_i(sigma) = -log Z_i(sigma), by one run for each member.

The log-mean-weights of sequential Monte Carlo on member i alone estimate log Z_i at every noise level. Their
exponential is an unbiased estimate of Z_i for any number of steps. The other estimator in use, the mean of
<s_i, δ> - ½ τ² |s_i|² + ΔE_i over plain trajectories, contains the errors of its steps and needs equal gauges
at the start. The offsets c are centred: their mean over the members is 0 at every level, so that the energy of
the mixture is about as large as those of its members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.noise_levels import as_noise_levels
from edmfast._internal.numbers import as_seed
from edmfast.smc.arguments import as_counts
from edmfast.smc.options import Distribution
from edmfast.smc.sample import sample
from edmfast.targets.mixture import Mixture
from edmfast.targets.offsets import Offsets
from edmfast.targets.protocols import Model
from edmfast.targets.scores import missing_energy


def calibrate_offsets(
    mixture: Mixture,
    shape: Sequence[int],
    sigmas: Tensor | Sequence[float],
    *,
    particles: int = 1000,
    populations: int = 8,
    seed: int = 0,
    **options: Any,
) -> Mixture:
    """Return the mixture with offsets that give member i the mass w_i at each noise level.

    Args:
        mixture: a `Mixture` of energies.
        shape: of one sample.
        sigmas: noise levels as in `smc.sample`; a last 0 gets no offsets. Offsets are interpolated between
            levels, so use those that the mixture will be sampled with.
        particles: number of particles in each population.
        populations: number of populations. Each member takes one run of populations · particles.
        seed: 64-bit.
        options: further options of `smc.sample`, such as proposal.

    The attribute `offsets` of the result can be saved. It holds standard errors, which come from the spread of
    the populations. Raises as `smc.sample` does, TypeError for anything but a `Mixture` and for members without
    an energy, and ValueError where each population has its own exponent.
    """
    if not isinstance(mixture, Mixture):
        raise TypeError(
            f"calibrate_offsets takes a Mixture, such as Mixture([first, second]), got a {type(mixture).__name__}"
        )
    if not mixture.has_energy:
        raise missing_energy(mixture)
    if isinstance(mixture.exponent, Tensor):
        raise ValueError(
            "calibrate_offsets takes members of a single exponent, but these have one exponent per population"
        )
    particles, populations = as_counts(particles, populations)
    seed = as_seed(seed)
    # An energy at the level 0 does not exist.
    levels = [level for level in as_noise_levels(sigmas) if level > 0]
    log_normalisers = [
        _log_normalisers(
            model,
            shape,
            levels,
            particles=particles,
            populations=populations,
            seed=seed,
            # every member gets its own noise
            distribution=Distribution(first_population=index * populations),
            **options,
        )
        for index, model in enumerate(mixture.models)
    ]
    means, errors = (torch.stack(part, 1) for part in zip(*log_normalisers, strict=True))
    # centring keeps the energy of the mixture about as large as those of its members
    values = means.mean(1, keepdim=True) - means
    table = Offsets(
        tuple(levels), tuple(map(tuple, values.tolist())), tuple(map(tuple, errors.tolist()))
    )
    return mixture.with_offsets(table)


def _log_normalisers(
    model: Model, shape: Sequence[int], levels: list[float], **options: Any
) -> tuple[Tensor, Tensor]:
    """Return log Z(sigma) up to a constant that all members share, and its standard error, both [T]."""
    means: list[Tensor] = []

    def record(info: dict[str, Any]) -> None:
        means.append(info["log_z"].cpu())

    sample(model, shape, levels, callback=record, **options)
    log_z = torch.stack(means)
    # the largest Z becomes 1, so that no ratio overflows
    ratio = torch.exp(log_z - log_z.amax(1, keepdim=True))
    mean = ratio.mean(1)
    # The relative error of a mean is the error of its logarithm, to first order.
    error = ratio.std(1) / mean / math.sqrt(ratio.shape[1]) if ratio.shape[1] > 1 else 0 * mean
    return log_z.amax(1) + mean.log(), error
