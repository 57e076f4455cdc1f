"""`systematic_resample`: adaptive systematic resampling of many populations, decided on the device.

Log-weights become integers ``q = floor(exp(log w - max) 2^B)``, whose prefix sums c are exact in any order. The
first slot of particle i is ``ceil(c_i N / W - u)``, with W the total. So the ancestors have the same bits on
every device and for any number of threads, and ``|offspring_i - N w_i| < 1`` always, with w the normalised
integer weights. Where the effective sample size is not below the threshold, the ancestors are the identity.

Bad weights: NaN counts as zero weight. Where all weights are zero, the population is marked as collapsed, and its
ancestors are the identity. Particles at +inf share the population.

There is no derivative: inputs that require grad raise under grad mode, and inputs with a tangent always do.
Sources: Carpenter, Clifford and Fearnhead 1999 (systematic); Liu and Chen 1995 (adaptive).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from edmfast import _extension
from edmfast._internal.derivatives import refuse_derivatives
from edmfast._internal.numbers import as_float
from edmfast.ops._shared.door import opened
from edmfast.ops.systematic_resample import reference

NAN_SEEN, COLLAPSED, INFINITE = reference.NAN_SEEN, reference.COLLAPSED, reference.INFINITE


class Resampled(NamedTuple):
    """The decision of a resampling, and what it rests on.

    ancestors: int32 [P, N], sorted for all schemes but "killing": the particle that each slot takes.
    log_mean: float64 [P], the log of the mean of the weights, in nats.
    ess: float64 [P], the effective sample size, in particles.
    resampled: bool [P], the decision.
    degenerate: int32 [P], a sum of NAN_SEEN (1), COLLAPSED (2) and INFINITE (4).
    """

    ancestors: Tensor
    log_mean: Tensor
    ess: Tensor
    resampled: Tensor
    degenerate: Tensor


def fake_resampled(log_weights: Tensor, count: int) -> tuple[Tensor, ...]:
    """Return empty outputs for populations with `count` offspring."""
    populations = log_weights.shape[0]
    return (
        log_weights.new_empty((populations, count), dtype=torch.int32),
        log_weights.new_empty(populations, dtype=torch.float64),
        log_weights.new_empty(populations, dtype=torch.float64),
        log_weights.new_empty(populations, dtype=torch.bool),
        log_weights.new_empty(populations, dtype=torch.int32),
    )


def _fake(log_weights: Tensor, uniform: Tensor, ess_threshold: float) -> tuple[Tensor, ...]:
    return fake_resampled(log_weights, log_weights.shape[1])


_extension.define(
    "systematic_resample(Tensor log_weights, Tensor uniform, float ess_threshold) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference.systematic_resample,
    _fake,
    triton="systematic_resample",
)

_OPERATOR = torch.ops.edmfast.systematic_resample.default
_LIBRARY = opened()


def systematic_resample(
    log_weights: Tensor, uniform: Tensor, *, ess_threshold: float = 1.0
) -> Resampled:
    """Resample every population whose effective sample size is below ``ess_threshold * N``.

    log_weights: [P, N], any floating dtype (half precisions are widened), not normalised, in nats.
    uniform: [P] in [0, 1), one number for each population. Values outside are clamped, and NaN counts as 0.
    ess_threshold: a fraction of N; 1 resamples unless all weights are equal, 0 never does.

    Returns `Resampled`, with ``log_mean`` whether or not a population was resampled.

    Raises TypeError for dtypes, ValueError for shapes, no particles, or a threshold outside [0, 1], RuntimeError
    for inputs that require grad or carry a tangent.
    Sources: systematic resampling, Carpenter, Clifford and Fearnhead 1999; adaptive, Liu and Chen 1995.
    """
    # Dynamo traces the operator
    if _LIBRARY is not None and not torch.compiler.is_dynamo_compiling():
        quick: tuple[Tensor, ...] | None = _LIBRARY.resample(log_weights, uniform, ess_threshold)
        if quick is not None:
            return Resampled._make(quick)
    # a call on a small population is mostly overhead, so every attribute is read once
    shape, dtype, device = log_weights.shape, log_weights.dtype, log_weights.device
    if not dtype.is_floating_point or not uniform.dtype.is_floating_point:
        raise TypeError(
            f"log_weights and uniform must be floating point, got {dtype} and {uniform.dtype}"
        )
    # ancestors are int32
    if len(shape) != 2 or not 0 < shape[1] < 2**31:
        raise ValueError(
            f"log_weights must be [P, N] with N >= 1 and below 2^31, got shape {tuple(shape)}"
        )
    if uniform.shape != shape[:1]:
        raise ValueError(f"uniform must be [P] = [{shape[0]}], got shape {tuple(uniform.shape)}")
    if uniform.device != device:
        raise ValueError(f"uniform is on {uniform.device}, log_weights on {device}")
    ess_threshold = as_float("ess_threshold", ess_threshold, least=0, most=1)
    refuse_derivatives("systematic_resample", log_weights, uniform)
    if dtype is not torch.float32 and dtype is not torch.float64:
        log_weights = log_weights.float()
    if uniform.dtype is not torch.float64:
        uniform = uniform.double()
    return Resampled(*_OPERATOR(log_weights, uniform, ess_threshold))
