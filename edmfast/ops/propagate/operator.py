"""`propagate`: the proposal step of sequential Monte Carlo in one pass, with its kernel log-ratio.

The step is ``x_u = x + m + sqrt(v_M) z`` with ``m = sum_k drift_k S_k`` and normals z, and its log-ratio is
``R = (1 - v_M/v_L) |z|²/2 - (sqrt(v_M)/v_L) <m, z> - |m|²/(2 v_L) + (d/2) log(v_M/v_L)``. The incremental
log-weight of a move from level s to u is then ``R - [U(x_u, u) - U(x_s, s)]``, which is exact for any drift and
variances that depend on x_s only. x, up to eight scores, and coefficients where every particle has its own, are
read through the ancestors, so resampling costs no pass of its own. The normals come from a counter.

There is no derivative: inputs that require grad raise under grad mode, and inputs with a tangent always do.
Sources: Thornton et al. 2025, arXiv 2502.12786; Del Moral, Doucet and Jasra 2006.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edmfast import _extension
from edmfast._internal.derivatives import refuse_derivatives
from edmfast._internal.numbers import as_int
from edmfast.ops._shared.counters import check_populations
from edmfast.ops._shared.dtypes import DTYPES
from edmfast.ops.propagate import reference

# the CUDA kernels hold as many pointers in their arguments
MAX_SCORES = 8


def _fake(
    x: Tensor,
    scores: Sequence[Tensor],
    ancestors: Tensor,
    coefficients: Tensor,
    rng: Tensor,
    mask: Tensor | None,
    first_population: int,
    first_particle: int,
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape), x.new_empty(x.shape[:2], dtype=dtype)


_extension.define(
    "propagate(Tensor x, Tensor[] scores, Tensor ancestors, Tensor coefficients, Tensor rng, "
    "Tensor? mask, int first_population, int first_particle) -> (Tensor, Tensor)",
    reference.propagate,
    _fake,
    triton="propagate",
)
_OPERATOR = torch.ops.edmfast.propagate.default


def propagate(
    x: Tensor,
    score: Tensor | Sequence[Tensor],
    ancestors: Tensor,
    coefficients: Tensor,
    rng: Tensor,
    *,
    mask: Tensor | None = None,
    first_population: int = 0,
    first_particle: int = 0,
) -> tuple[Tensor, Tensor]:
    """Move every particle by one step. Return (x_u like x, R [P, N] in nats, float64 for float64 x, else float32).

    x: [P, N, *shape], float16 or bfloat16 (both computed in float32), float32 or float64.
    score: like x, or a sequence of 1 to 8 such tensors.
    ancestors: int32 [P, N], each in 0..N-1 of its own population. Others raise RuntimeError on the CPU. On a GPU,
        where the host reads nothing, their R is NaN.
    coefficients: float64 [P, M + 2], for each population (drift of each of the M scores, v_M, v_L), or
        [P, N, M + 2], the same for each particle before the move, read through the ancestors as x is. The shift is
        sum_k drift_k score_k; v_M > 0 and v_L > 0 are the variances of the forward and the backward kernel, in
        units of x².
    rng: int64 [2] = (seed, step), as `rng_state` makes it.
    mask: bool [P, *shape] or None. Where it is False, an element keeps its value and adds nothing to R: known
        pixels, or the padding of smaller systems.
    first_population, first_particle: the place of the first population and of the first particle in the counter,
        where a run is split over calls or devices. Populations must stay below 2^28.

    Raises TypeError for dtypes, ValueError for shapes or devices, RuntimeError for inputs that require grad or
    carry a tangent.
    Source: Thornton et al. 2025, arXiv 2502.12786.
    """
    scores = [score] if isinstance(score, Tensor) else [*score]
    if not 1 <= len(scores) <= MAX_SCORES:
        raise ValueError(f"1 to {MAX_SCORES} scores are needed, got {len(scores)}")
    if x.dtype not in DTYPES or any(s.dtype != x.dtype for s in scores):
        raise TypeError(
            "x and score must both be float16, bfloat16, float32 or float64, "
            f"got {x.dtype}, {[s.dtype for s in scores]}"
        )
    if ancestors.dtype != torch.int32 or rng.dtype != torch.int64:
        raise TypeError(
            f"ancestors must be int32 and rng int64, got {ancestors.dtype} and {rng.dtype}"
        )
    if coefficients.dtype != torch.float64:
        raise TypeError(f"coefficients must be float64, got {coefficients.dtype}")
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, got {mask.dtype}")
    if x.dim() < 2 or any(s.shape != x.shape for s in scores):
        raise ValueError(
            "x and score must be [P, N, *shape] of one shape, "
            f"got {tuple(x.shape)} and {[tuple(s.shape) for s in scores]}"
        )
    populations, particles = x.shape[:2]
    first_population = check_populations(first_population, populations)
    first_particle = as_int("first_particle", first_particle, least=0, most=2**32 - 1)
    tensors = {"ancestors": ancestors, "coefficients": coefficients, "rng": rng}
    wanted: dict[str, tuple[int, ...]] = {
        "ancestors": (populations, particles),
        "coefficients": (
            *((populations, particles) if coefficients.dim() == 3 else (populations,)),
            len(scores) + 2,
        ),
        "rng": (2,),
    }
    if mask is not None:
        tensors["mask"], wanted["mask"] = mask, (populations, *x.shape[2:])
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(tensors[name].shape)}")
    # the kernels would read memory of another device
    if any(t.device != x.device for t in (*scores, *tensors.values())):
        raise ValueError("all tensors must be on one device")
    refuse_derivatives("propagate", x, *scores, coefficients)
    # an empty population has no first sample to measure
    elements = x[0, 0].numel() if x.numel() else 0
    flat = (populations, particles, elements)
    moved, ratio = _OPERATOR(
        x.reshape(flat),
        [s.reshape(flat) for s in scores],
        ancestors,
        coefficients,
        rng,
        None if mask is None else mask.reshape(populations, elements),
        first_population,
        first_particle,
    )
    return moved.reshape(x.shape), ratio
