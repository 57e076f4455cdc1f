"""Measures the gauges of a mixture's members: c_i(sigma) = -log Z_i(sigma), by one run for each member.

The log-mean-weights of sequential Monte Carlo on member i alone estimate log Z_i at every noise level, and they
do so without bias in Z for any number of steps. The mean over plain trajectories of
<s_i, δ> - ½ τ² |s_i|² + ΔE_i, the other estimator in use, has the errors of its steps in it and needs equal
gauges at the start. c is centred: its mean over the members is 0 at every level, so that the mixture's energy
is of the size of its members'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_seed
from edmfast.smc.arguments import as_counts, check_sigmas
from edmfast.smc.sample import sample
from edmfast.targets.mixture import Mixture
from edmfast.targets.offsets import Offsets
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
    """The mixture with offsets by which member i has the mass w_i at each of the levels.

    shape: of one sample; sigmas: noise levels as for `smc.sample`, best those it will be sampled with, since
    between them offsets are interpolated; a last 0 has none. options: of `smc.sample`, such as proposal or
    batch_size. Costs one run of populations·particles for each member. `.offsets` of the result can be saved and
    has standard errors, from the spread of the populations.
    Raises TypeError for anything but a `Mixture` and for members that are mere denoisers,
    ValueError for one exponent per population, and as
    `smc.sample` does.
    """
    if not isinstance(mixture, Mixture):
        raise TypeError(
            f"calibrate_offsets takes a Mixture, given a {type(mixture).__name__}: write Mixture([one, other])"
        )
    if not mixture.has_energy:
        raise missing_energy(mixture)
    if isinstance(mixture.exponent, Tensor):
        raise ValueError("offsets are for one exponent: the members have one per population")
    particles, populations = as_counts(particles, populations)
    seed = as_seed(seed)
    levels = [level for level in check_sigmas(sigmas) if level > 0]
    found = [
        _log_normalisers(
            model,
            shape,
            levels,
            particles=particles,
            populations=populations,
            seed=seed,
            first_population=index * populations,  # noise of its own for every member
            **options,
        )
        for index, model in enumerate(mixture.models)
    ]
    means, errors = (torch.stack(part, 1) for part in zip(*found, strict=True))
    values = means.mean(1, keepdim=True) - means
    table = Offsets(
        tuple(levels), tuple(map(tuple, values.tolist())), tuple(map(tuple, errors.tolist()))
    )
    return mixture.with_offsets(table)


def _log_normalisers(
    model: Any, shape: Sequence[int], levels: list[float], **options: Any
) -> tuple[Tensor, Tensor]:
    """log Z(sigma) up to a constant that members share, and its standard error, both [T]."""
    means: list[Tensor] = []

    def record(info: dict[str, Any]) -> None:
        means.append(info["log_z"].cpu())

    sample(model, shape, levels, callback=record, **options)
    log_z = torch.stack(means)
    ratio = torch.exp(log_z - log_z.amax(1, keepdim=True))
    mean = ratio.mean(1)
    error = ratio.std(1) / mean / math.sqrt(ratio.shape[1]) if ratio.shape[1] > 1 else 0 * mean
    return log_z.amax(1) + mean.log(), error
