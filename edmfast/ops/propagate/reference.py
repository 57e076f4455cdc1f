"""The proposal step through the ancestors, and its kernel log-ratio, in plain torch.

With the shift m = sum_k drift_k S_k, and z standard normal numbers from stream 0 of the counter-based generator,
``x_u = x + m + sqrt(v_M) z`` and
``R = (1 - v_M/v_L) |z|²/2 - (sqrt(v_M)/v_L) <m, z> - |m|²/(2 v_L) + (d/2) log(v_M/v_L)``,
the logarithm of L(x_s | x_u) / M(x_u | x_s) for Gaussian kernels M = N(x + m, v_M I) and
L = N(x_u, v_L I) summed over the elements that the mask allows to move. Half precisions are
computed in float32, and sums are taken in float64.
Source: Thornton et al. 2025, arXiv 2502.12786.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edmfast.ops._shared.dtypes import arithmetic
from edmfast.ops.noise.reference import noise


def _square_root(v: Tensor) -> Tensor:
    """Return the correctly rounded square root of float64, which torch does not give on every CPU."""
    root = v.sqrt()
    # The square of root is exact when root is split into two halves.
    # So the residual v - root² of one Newton step is exact, too.
    spread = root * 134217729.0
    high = spread - (spread - root)
    low = root - high
    square = root * root
    residual = (v - square) - (((high * high - square) + 2.0 * high * low) + low * low)
    better = root + residual / (2.0 * root)
    return torch.where(better.isfinite(), better, root)


def propagate(
    x: Tensor,
    scores: Sequence[Tensor],
    ancestors: Tensor,
    coefficients: Tensor,
    rng: Tensor,
    mask: Tensor | None,
    first_population: int,
    first_particle: int,
) -> tuple[Tensor, Tensor]:
    """Return (x_u like x, R [P, N]).

    x, scores [P, N, d]; ancestors int32 [P, N]; coefficients float64 [P, M + 2] = (drifts, v_M, v_L), or
    [P, N, M + 2] for each particle before the move; rng int64 [2], the seed and the step of the noise; mask bool
    [P, d] or None. first_population, first_particle: the indices of population 0 and of particle 0 in the counters
    of the noise.
    """
    dtype = arithmetic(x.dtype)
    parents = ancestors.long()[..., None]
    index = parents.expand_as(x)
    if coefficients.dim() == 3:
        rows = coefficients.gather(1, parents.expand(-1, -1, coefficients.shape[2]))
    else:
        rows = coefficients[:, None]
    *drifts, v_m, v_l = rows.unbind(-1)
    shift = torch.zeros((), dtype=dtype, device=x.device)
    for k, (drift, score) in enumerate(zip(drifts, scores, strict=True)):
        term = drift[..., None].to(dtype) * score.gather(1, index).to(dtype)
        shift = term if k == 0 else shift + term
    # the normals are those of the dtype of the arithmetic
    z = noise(x.to(dtype), rng, 0, first_population, first_particle)
    moving: Tensor | int = x.shape[2]
    if mask is not None:
        # a score may be NaN where an element is held, and a product with 0 would keep the NaN
        z, shift = z * mask[:, None], torch.where(mask[:, None], shift, 0.0)
        moving = mask.sum(1, keepdim=True)
    moved = x.gather(1, index).to(dtype) + shift + _square_root(v_m)[..., None].to(dtype) * z
    # sums over many elements are taken in float64
    z, shift = z.double(), shift.double()
    ratio = (
        0.5 * (1.0 - v_m / v_l) * z.square().sum(2)
        - v_m.sqrt() / v_l * (shift * z).sum(2)
        - 0.5 / v_l * shift.square().sum(2)
        + 0.5 * moving * torch.log(v_m / v_l)
    )
    return moved.to(x.dtype), ratio.to(dtype)
