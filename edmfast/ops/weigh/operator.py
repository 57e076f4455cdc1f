"""`weigh_and_resample`: add the log-weight increments of a move, and decide whether to resample, in one operator.

With R from `propagate`, energies E_k of the states before and after the move, and exponents a_k, the increment is
``R - sum_k a_k (E_k(x_u, u) - E_k(x_s, s))``. It is added to the log-weights, which start from zero where the
population was resampled before the move. A population whose effective sample size falls below the threshold is
resampled. log Z, the roots of the genealogy and the flags of bad weights are carried along. A particle of weight
zero keeps that weight until it is replaced, so an infinite energy acts as a wall and is not an error.

Everything is decided on the device. Ancestors, log-weights and log Z have the same bits on every device. There
is no derivative: inputs that require grad raise under grad mode, and inputs with a tangent always do.
Sources: Thornton et al. 2025, arXiv 2502.12786; Del Moral, Doucet and Jasra 2006.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from edmfast import _extension
from edmfast._internal.derivatives import refuse_derivatives
from edmfast._internal.numbers import as_float
from edmfast.ops._shared.counters import check_populations
from edmfast.ops._shared.roots import count_roots
from edmfast.ops.resample.operator import SCHEMES, resample
from edmfast.ops.weigh import reference

# the CUDA kernels hold as many pointers in their arguments
MAX_ENERGIES = 8


class Weights(NamedTuple):
    """The weights of P populations of N particles at one noise level, and the resampling decision there.

    log_weights: float64 [P, N], in nats, accumulated since the last resampling before this level.
    log_z: float64 [P], in nats: the sum of the log-mean-weights of all resamplings, with that of this level.
    ancestors: int32 [P, N], sorted for all schemes but "killing": the particle that each slot takes.
    root: int32 [P, N]: the starting particle that each slot descends from.
    ess: float64 [P], the effective sample size, in particles.
    log_mean: float64 [P], in nats: the log of the mean of the weights at this level.
    resampled: bool [P]: the decision. Where it is False, ancestors are the identity; where it is True, the weights
        start from zero again.
    degenerate: int32 [P]: a sum of NAN_SEEN (1), COLLAPSED (2) and INFINITE (4), over all levels so far.
    increment_sd: float64 [P], in nats: the standard deviation of the finite increments of the move to this level,
        NaN where there are none.
    survivors: int64 [P], the number of starting particles that have descendants, which is the number of different
        roots. All schemes but "killing" count runs of equal roots. That is the same unless an earlier level used
        "killing", which leaves equal roots apart.
    """

    log_weights: Tensor
    log_z: Tensor
    ancestors: Tensor
    root: Tensor
    ess: Tensor
    log_mean: Tensor
    resampled: Tensor
    degenerate: Tensor
    increment_sd: Tensor
    survivors: Tensor

    @classmethod
    def start(cls, populations: int, particles: int, device: torch.device | str = "cpu") -> Weights:
        """Return equal weights, before any resampling."""
        zeros = torch.zeros(populations, dtype=torch.float64, device=device)
        identity = torch.arange(particles, dtype=torch.int32, device=device).repeat(populations, 1)
        flags = zeros.bool()
        full_size = zeros + particles
        return cls(
            zeros[:, None].repeat(1, particles),
            zeros,
            identity,
            identity.clone(),
            full_size,
            zeros.clone(),
            flags,
            flags.int(),
            zeros.clone(),
            full_size.long(),
        )


def _fake(
    log_weights: Tensor,
    log_z: Tensor,
    ancestors: Tensor,
    root: Tensor,
    resampled: Tensor,
    degenerate: Tensor,
    *_: object,
) -> tuple[Tensor, ...]:
    new = torch.empty_like
    numbers = [new(log_z) for _ in range(4)]
    # the kernels write dense results, whatever the strides of their inputs
    weights = new(log_weights, memory_format=torch.contiguous_format)
    indices = [new(ancestors, memory_format=torch.contiguous_format) for _ in range(2)]
    return (
        weights,
        numbers[0],
        *indices,
        *numbers[1:3],
        new(resampled),
        new(degenerate),
        numbers[3],
        new(log_z, dtype=torch.int64),
    )


_extension.define(
    "weigh_and_resample(Tensor log_weights, Tensor log_z, Tensor ancestors, Tensor root, Tensor resampled, "
    "Tensor degenerate, Tensor ratio, Tensor[] energies, Tensor[] energies_before, Tensor? exponents, Tensor rng, "
    "bool weigh, float ess_threshold, int scheme, int first_population) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference.weigh_and_resample,
    _fake,
    triton="weigh",
)
_OPERATOR = torch.ops.edmfast.weigh_and_resample.default


def weigh_and_resample(
    before: Weights,
    ratio: Tensor,
    energies: Tensor | Sequence[Tensor],
    energies_before: Tensor | Sequence[Tensor],
    rng: Tensor,
    *,
    exponents: Tensor | None = None,
    weigh: bool = True,
    scheme: str = "systematic",
    ess_threshold: float = 0.5,
    first_population: int = 0,
) -> Weights:
    """Return the weights after a move, with the next resampling decision.

    before: the weights of the level that the particles moved from, as this function or `Weights.start` returned
        them. The device does not check that their ancestors and roots are in 0..N-1.
    ratio: R [P, N] of the move, in nats.
    energies: E_k of the moved particles, in nats, [P, N] each; one tensor or a sequence of 0 to 8.
    energies_before: as many energies of the particles before the move, and before `before.ancestors` chose among
        them. Energies and ratio may have any floating dtype; all arithmetic is float64.
    rng: int64 [2] = (seed, step) of the decision, as `rng_state` makes it.
    exponents: a_k, float64 [P, M] or [M], 1 by default.
    weigh: False adds no increments; their standard deviation is still reported.
    scheme, ess_threshold, first_population: as in `resample`; ess_threshold 0 never resamples.

    Raises TypeError for dtypes; ValueError for shapes, devices, an unknown scheme or threshold; RuntimeError for
    inputs that require grad or carry a tangent; NotImplementedError for "ssp" on a GPU.
    Sources: Thornton et al. 2025, arXiv 2502.12786; Del Moral, Doucet and Jasra 2006.
    """
    now = [energies] if isinstance(energies, Tensor) else [*energies]
    past = [energies_before] if isinstance(energies_before, Tensor) else [*energies_before]
    _check_before(before)
    shape, device = before.log_weights.shape, before.log_weights.device
    _check(shape, device, ratio, now, past, rng, exponents)
    first_population = check_populations(first_population, shape[0])
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}; known: {', '.join(SCHEMES)}")
    ess_threshold = as_float("ess_threshold", ess_threshold, least=0, most=1)
    if scheme == "ssp" and device.type != "cpu":
        raise NotImplementedError('"ssp" is sequential: on a GPU use "systematic" or "stratified"')
    # one row of exponents serves all populations
    if exponents is not None:
        exponents = exponents.expand(shape[0], len(now))
    # the kernels read ratio and energies in one dtype, and widening changes no number
    dtype = (
        torch.float64 if torch.float64 in {t.dtype for t in (ratio, *now, *past)} else torch.float32
    )
    ratio, now, past = ratio.to(dtype), [e.to(dtype) for e in now], [e.to(dtype) for e in past]
    increments = ratio, now, past, exponents, rng, weigh
    # on a GPU only the systematic scheme is fused with the weighing
    if scheme != "systematic" and device.type != "cpu":
        return _by_another_scheme(before, increments, scheme, ess_threshold, first_population)
    index = SCHEMES.index(scheme)
    return Weights(*_OPERATOR(*_state(before), *increments, ess_threshold, index, first_population))


def _state(before: Weights) -> tuple[Tensor, ...]:
    """Return the fields that the operator reads."""
    return (
        before.log_weights,
        before.log_z,
        before.ancestors,
        before.root,
        before.resampled,
        before.degenerate,
    )


def _by_another_scheme(
    before: Weights,
    increments: tuple[object, ...],
    scheme: str,
    ess_threshold: float,
    first_population: int,
) -> Weights:
    """Weigh and resample by two operators: on a GPU only the systematic scheme has a kernel that does both."""
    # a threshold of 0 never resamples, so this operator only weighs
    weighed = Weights(*_OPERATOR(*_state(before), *increments, 0.0, 0, first_population))
    chosen = resample(
        weighed.log_weights,
        cast(Tensor, increments[4]),
        scheme=scheme,
        ess_threshold=ess_threshold,
        first_population=first_population,
    )
    root = weighed.root.gather(1, chosen.ancestors.long())
    return weighed._replace(
        log_z=weighed.log_z + torch.where(chosen.resampled, chosen.log_mean, 0.0),
        ancestors=chosen.ancestors,
        root=root,
        resampled=chosen.resampled,
        survivors=count_roots(root, together=scheme != "killing"),
    )


def _check_before(before: Weights) -> None:
    if not isinstance(before, Weights):
        raise TypeError(
            f"before must be Weights, as ops.Weights.start makes them, got {type(before).__name__}"
        )
    shape = before.log_weights.shape
    if len(shape) != 2 or (shape[1] == 0 and shape[0] > 0):
        raise ValueError(f"log_weights must be [P, N] with N >= 1, got shape {tuple(shape)}")
    wanted = (
        (torch.float64, shape),
        (torch.float64, shape[:1]),
        (torch.int32, shape),
        (torch.int32, shape),
        (torch.bool, shape[:1]),
        (torch.int32, shape[:1]),
    )
    for tensor, (dtype, size) in zip(_state(before), wanted, strict=True):
        if tensor.dtype != dtype:
            raise TypeError(
                f"before must be as returned, got a tensor of {tensor.dtype} for {dtype}"
            )
        if tensor.shape != size or tensor.device != before.log_weights.device:
            raise ValueError(
                f"before must be as returned, got a tensor {tuple(tensor.shape)} on {tensor.device} "
                f"for {tuple(size)} on {before.log_weights.device}"
            )
    refuse_derivatives("weigh_and_resample", before.log_weights, before.log_z)


def _check(
    shape: torch.Size,
    device: torch.device,
    ratio: Tensor,
    now: Sequence[Tensor],
    past: Sequence[Tensor],
    rng: Tensor,
    exponents: Tensor | None,
) -> None:
    if not len(now) == len(past) <= MAX_ENERGIES:
        raise ValueError(
            f"at most 8 energies are taken, and as many before, got {len(now)} and {len(past)}"
        )
    numbers = (ratio, *now, *past)
    if not all(tensor.is_floating_point() for tensor in numbers):
        dtypes = [tensor.dtype for tensor in numbers]
        raise TypeError(f"ratio and energies must be floating point, got {dtypes}")
    if any(tensor.shape != shape for tensor in numbers):
        shapes = [tuple(tensor.shape) for tensor in numbers]
        raise ValueError(f"ratio and energies must be [P, N] = {tuple(shape)}, got {shapes}")
    if rng.dtype != torch.int64 or rng.shape != (2,):
        raise TypeError(f"rng must be int64 [2], got {rng.dtype} {tuple(rng.shape)}")
    if exponents is not None and (
        exponents.dtype != torch.float64
        or tuple(exponents.shape) not in ((len(now),), (shape[0], len(now)))
    ):
        raise ValueError(
            f"exponents must be float64 [{len(now)}] or [{shape[0]}, {len(now)}], "
            f"got {exponents.dtype} {tuple(exponents.shape)}"
        )
    real = numbers if exponents is None else (*numbers, exponents)
    if any(tensor.device != device for tensor in (*real, rng)):
        raise ValueError("all tensors must be on one device")
    refuse_derivatives("weigh_and_resample", *real)
