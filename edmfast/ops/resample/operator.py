"""`resample`: adaptive resampling by one of six unbiased schemes, with any number of offspring.

The expected number of offspring of particle i is M w_i in every scheme, with w the normalised weights. All schemes
work on the integer weights of `systematic_resample` and on uniforms from a counter. So the ancestors of a
population have the same bits on every device, for any number of threads, and whatever runs beside it. The
decision is taken on the device.

There is no derivative: log-weights that require grad raise under grad mode, and log-weights with a tangent
always do.
Sources: see `resample`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast import _extension
from edmfast._internal.derivatives import refuse_derivatives
from edmfast._internal.numbers import as_float, as_int
from edmfast.ops._shared.counters import check_populations
from edmfast.ops.noise.reference import uniform
from edmfast.ops.resample import reference
from edmfast.ops.systematic_resample.operator import Resampled, fake_resampled, systematic_resample

SCHEMES = reference.SCHEMES


def _fake(
    log_weights: Tensor,
    rng: Tensor,
    count: int,
    ess_threshold: float,
    scheme: int,
    first_population: int,
) -> tuple[Tensor, ...]:
    return fake_resampled(log_weights, count)


_extension.define(
    "resample(Tensor log_weights, Tensor rng, int count, float ess_threshold, int scheme, "
    "int first_population) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference.resample,
    _fake,
)
_OPERATOR = torch.ops.edmfast.resample.default


def resample(
    log_weights: Tensor,
    rng: Tensor,
    *,
    scheme: str = "systematic",
    count: int | None = None,
    ess_threshold: float = 1.0,
    first_population: int = 0,
) -> Resampled:
    """Resample every population whose effective sample size is below ``ess_threshold * N``.

    log_weights: [P, N], any floating dtype (half precisions are widened), not normalised, in nats.
    rng: int64 [2] = (seed, step), as `rng_state` makes it.
    scheme: how offspring are drawn;
        "systematic"   one uniform for a population: offspring within 1 of M w_i, the least work
        "stratified"   one uniform for each slot
        "multinomial"  independent draws: the baseline of textbooks, with the most variance
        "residual"     floor(M w_i) offspring each, the rest multinomial
        "killing"      a particle stays with probability w_i / max w, else one draw replaces it; there are as many
                       offspring as particles, and ancestors are not sorted
        "ssp"          offspring within 1 of M w_i, less correlated than systematic; sequential
    count: M, the number of offspring, N by default. Where it differs from N, every population with a positive
        weight is resampled, and ess_threshold must be 1.
    ess_threshold: a fraction of N; 1 resamples unless all weights are equal, 0 never does.
    first_population: the place of the first population in the counter; populations must stay below 2^28.

    Returns `Resampled` with ancestors int32 [P, M].

    Raises TypeError for dtypes; ValueError for shapes, an unknown scheme, a count below 1, or a count that the
    scheme or the threshold excludes; RuntimeError for log-weights that require grad or carry a tangent;
    NotImplementedError for "ssp" on a GPU.
    Sources: Carpenter et al. 1999 (systematic); Kitagawa 1996 (stratified); Liu and Chen 1998
    (residual); Del Moral 2004 (killing); Gerber, Chopin and Whiteley 2019, arXiv 1708.02230 (ssp).
    """
    if not isinstance(rng, Tensor):
        raise TypeError(f"rng must be a tensor, as rng_state(seed, step) makes it, got {rng!r}")
    if not log_weights.is_floating_point() or rng.dtype != torch.int64:
        raise TypeError(
            "log_weights must be floating point and rng int64, "
            f"got {log_weights.dtype} and {rng.dtype}"
        )
    if log_weights.dim() != 2 or log_weights.shape[1] == 0 or rng.shape != (2,):
        raise ValueError(
            "log_weights must be [P, N] with N >= 1 and rng [2], "
            f"got shapes {tuple(log_weights.shape)} and {tuple(rng.shape)}"
        )
    if rng.device != log_weights.device:
        raise ValueError(f"rng is on {rng.device}, log_weights on {log_weights.device}")
    first_population = check_populations(first_population, log_weights.shape[0])
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}; known: {', '.join(SCHEMES)}")
    particles = log_weights.shape[1]
    # ancestors are int32
    if particles >= 2**31:
        raise ValueError(f"log_weights must hold at most 2^31 - 1 particles, got {particles}")
    count = particles if count is None else as_int("count", count, least=1, most=2**31 - 1)
    # a particle of this scheme keeps or replaces itself in its own slot
    if count != particles and scheme == "killing":
        raise ValueError(f"killing keeps the number of particles, {particles}, got count={count}")
    ess_threshold = as_float("ess_threshold", ess_threshold, least=0, most=1)
    if count != particles and ess_threshold != 1.0:
        raise ValueError(
            f"{count} offspring of {particles} particles always resample: ess_threshold must be 1, "
            f"got {ess_threshold}"
        )
    if scheme == "ssp" and log_weights.device.type != "cpu":
        raise NotImplementedError('"ssp" is sequential: on a GPU use "systematic" or "stratified"')
    refuse_derivatives("resample", log_weights)
    weights = log_weights
    if weights.dtype not in (torch.float32, torch.float64):
        weights = weights.float()
    if scheme == "systematic" and count == particles and weights.device.type != "cpu":
        # on a GPU only this scheme has a kernel of its own, and it takes the same uniform
        point = uniform(rng, len(weights), first_population)
        return systematic_resample(weights, point, ess_threshold=ess_threshold)
    index = SCHEMES.index(scheme)
    return Resampled(*_OPERATOR(weights, rng, count, ess_threshold, index, first_population))
