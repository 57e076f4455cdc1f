"""One proposal step through the ancestors and its kernel log-ratio, in plain torch.

With m = drift S the mean shift tau² b, and z the counter-based normals of stream 0,
``x_u = x + m + sqrt(v_M) z`` and
``R = (1 - v_M/v_L) |z|²/2 - (sqrt(v_M)/v_L) <m, z> - |m|²/(2 v_L) + (d/2) log(v_M/v_L)``,
the logarithm of L(x_s | x_u) / M(x_u | x_s) for Gaussian kernels M = N(x + m, v_M I) and
L = N(x_u, v_L I). Sums are taken in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.reference.noise import noise


def propagate(
    x: Tensor,
    score: Tensor,
    ancestors: Tensor,
    coefficients: Tensor,
    rng: Tensor,
    first_population: int,
) -> tuple[Tensor, Tensor]:
    """x, score [P, N, d]; ancestors int32 [P, N]; coefficients float64 [P, 3] = (drift, v_M, v_L)."""
    elements = x.shape[2]
    index = ancestors.long()[..., None].expand_as(x)
    drift, v_m, v_l = coefficients[:, None].unbind(-1)
    z = noise(x, rng, 0, first_population, 0)
    shift = drift[..., None].to(x.dtype) * score.gather(1, index)
    moved = x.gather(1, index) + shift + v_m.sqrt()[..., None].to(x.dtype) * z
    z, shift = z.double(), shift.double()
    ratio = (
        0.5 * (1.0 - v_m / v_l) * z.square().sum(2)
        - v_m.sqrt() / v_l * (shift * z).sum(2)
        - 0.5 / v_l * shift.square().sum(2)
        + 0.5 * elements * torch.log(v_m / v_l)
    )
    return moved, ratio.to(x.dtype)
