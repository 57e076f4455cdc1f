"""What happens to the weights in one step of sequential Monte Carlo, in one operator.

With R from `propagate`, energies E_k of the states before and after the move and exponents a_k,
``increment = R - sum_k a_k (E_k(x_u, u) - E_k(x_s, s))`` is added to the log-weights (which start from
zero where the population was resampled before the move), and the population is resampled if its
effective sample size has fallen below the threshold. log Z, the roots of the genealogy and the flags of
bad weights are carried on. A particle of weight zero keeps it until it is replaced, so an infinite energy
is a wall and no fault. Everything is decided on the device; ancestors, log-weights and log Z have the same
bits on every device. Source: Thornton et al. 2025, arXiv 2502.12786; Del Moral, Doucet and Jasra
2006. Not differentiable: inputs that require grad raise under grad mode, those with a tangent always.
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
from edmfast.ops.resample.operator import SCHEMES, resample
from edmfast.ops.weigh import reference

MAX_ENERGIES = 8


class Weights(NamedTuple):
    """Weights of P populations of N particles at one noise level, and what was decided there.

    log_weights: float64 [P, N], in nats, since the last resampling before this level.
    log_z: float64 [P], in nats: log-mean-weights of all resamplings, this level's included.
    ancestors: int32 [P, N], sorted for all schemes but "killing": the particle that each slot takes.
    root: int32 [P, N]: the starting particle that each slot descends from.
    ess: float64 [P], in particles. log_mean: float64 [P], log of the mean of the weights here.
    resampled: bool [P]: the decision. Where False, ancestors are the identity; where True, the weights
        start anew.
    degenerate: int32 [P]: sum of NAN_SEEN (1), COLLAPSED (2), INFINITE (4), of all levels so far.
    increment_sd: float64 [P]: standard deviation of the finite increments that led here, NaN for none.
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

    @classmethod
    def start(cls, populations: int, particles: int, device: torch.device | str = "cpu") -> Weights:
        """Equal weights, nothing resampled yet."""
        zeros = torch.zeros(populations, dtype=torch.float64, device=device)
        identity = torch.arange(particles, dtype=torch.int32, device=device).repeat(populations, 1)
        flags = zeros.bool()
        everybody = zeros + particles
        return cls(
            zeros[:, None].repeat(1, particles),
            zeros,
            identity,
            identity.clone(),
            everybody,
            zeros.clone(),
            flags,
            flags.int(),
            zeros.clone(),
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
    )


_extension.define(
    "weigh_and_resample(Tensor log_weights, Tensor log_z, Tensor ancestors, Tensor root, Tensor resampled, "
    "Tensor degenerate, Tensor ratio, Tensor[] energies, Tensor[] energies_before, Tensor? exponents, Tensor rng, "
    "bool weigh, float ess_threshold, int scheme, int first_population) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
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
    """The weights after a move, and the next resampling decision.

    before: of the level that the particles moved from, by its ancestors; as this function or
        `Weights.start` returned it. Ancestors and roots beyond 0..N-1 are not looked for on the device.
    ratio: R [P, N] of the move, in nats. energies: E_k of the moved particles, [P, N] each, one or a
        sequence of 0 to 8. energies_before: as many, of the particles before they moved and before
        `before.ancestors` chose among them. Any floating dtype; all arithmetic is float64.
    rng: int64 [2] = (seed, step), as `rng_state` makes it, of the decision.
    exponents: a_k, float64 [P, M] or [M], 1 by default.
    weigh: False adds no increments (their spread is still reported).
    scheme, ess_threshold, first_population: as in `resample`; ess_threshold 0 never resamples.

    Raises TypeError for dtypes; ValueError for shapes, devices, an unknown scheme or threshold;
    RuntimeError for inputs that require grad or carry a tangent; NotImplementedError for "ssp" on a GPU.
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
    if exponents is not None:
        exponents = exponents.expand(shape[0], len(now))
    dtype = (
        torch.float64 if torch.float64 in {t.dtype for t in (ratio, *now, *past)} else torch.float32
    )
    ratio, now, past = ratio.to(dtype), [e.to(dtype) for e in now], [e.to(dtype) for e in past]
    increments = ratio, now, past, exponents, rng, weigh
    if scheme != "systematic" and device.type != "cpu":
        return _by_another_scheme(before, increments, scheme, ess_threshold, first_population)
    index = SCHEMES.index(scheme)
    return Weights(*_OPERATOR(*_state(before), *increments, ess_threshold, index, first_population))


def _state(before: Weights) -> tuple[Tensor, ...]:
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
    """In two operators: only the systematic scheme has a kernel that also weighs on a GPU."""
    weighed = Weights(*_OPERATOR(*_state(before), *increments, 0.0, 0, first_population))
    chosen = resample(
        weighed.log_weights,
        cast(Tensor, increments[4]),
        scheme=scheme,
        ess_threshold=ess_threshold,
        first_population=first_population,
    )
    return weighed._replace(
        log_z=weighed.log_z + torch.where(chosen.resampled, chosen.log_mean, 0.0),
        ancestors=chosen.ancestors,
        root=weighed.root.gather(1, chosen.ancestors.long()),
        resampled=chosen.resampled,
    )


def _check_before(before: Weights) -> None:
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
        raise ValueError(f"0 to 8 energies and as many before, got {len(now)} and {len(past)}")
    given = (ratio, *now, *past)
    if not all(tensor.is_floating_point() for tensor in given):
        dtypes = [tensor.dtype for tensor in given]
        raise TypeError(f"ratio and energies must be floating point, got {dtypes}")
    if any(tensor.shape != shape for tensor in given):
        shapes = [tuple(tensor.shape) for tensor in given]
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
    named = given if exponents is None else (*given, exponents)
    if any(tensor.device != device for tensor in (*named, rng)):
        raise ValueError("all tensors must be on one device")
    refuse_derivatives("weigh_and_resample", *named)
