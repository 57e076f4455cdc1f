"""Proposal step of sequential Monte Carlo, fused: gather, drift, noise and kernel log-ratio.

Reads x and the score through the ancestors (resampling costs no pass of its own), adds counter-based
noise, writes ``x_u = x + m + sqrt(v_M) z`` with ``m = drift S``, and in the same pass
``R = (1 - v_M/v_L) |z|²/2 - (sqrt(v_M)/v_L) <m, z> - |m|²/(2 v_L) + (d/2) log(v_M/v_L)``, so that the
incremental log-weight is ``R - [U(x_u, u) - U(x_s, s)]``. Exact for any drift and variances that
depend on x_s only. Source: Thornton et al. 2025, arXiv 2502.12786; Del Moral, Doucet and Jasra 2006.
Not differentiable: inputs that require grad raise under grad mode.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast import _extension
from edmfast.reference import propagate as reference


def _fake(
    x: Tensor,
    score: Tensor,
    ancestors: Tensor,
    coefficients: Tensor,
    rng: Tensor,
    first_population: int,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:2])


_extension.define(
    "propagate(Tensor x, Tensor score, Tensor ancestors, Tensor coefficients, Tensor rng, "
    "int first_population) -> (Tensor, Tensor)",
    reference.propagate,
    _fake,
)


def propagate(
    x: Tensor,
    score: Tensor,
    ancestors: Tensor,
    coefficients: Tensor,
    rng: Tensor,
    *,
    first_population: int = 0,
) -> tuple[Tensor, Tensor]:
    """Moves every particle one step. Returns (x_u like x, R [P, N] in the dtype of x, in nats).

    x, score: [P, N, *shape], float32 or float64, of one dtype. ancestors: int32 [P, N], each in
    0..N-1 of its own population (not checked on the device).
    coefficients: float64 [P, 3], per population (drift, v_M, v_L): the mean shift is drift * score,
    v_M > 0 and v_L > 0 are the variances of the forward and the backward kernel, in units of x².
    rng: int64 [2] = (seed, step). first_population: counter index of population 0.

    Raises TypeError for dtypes, ValueError for shapes or devices, RuntimeError for inputs that
    require grad.
    """
    if x.dtype not in (torch.float32, torch.float64) or score.dtype != x.dtype:
        raise TypeError(
            f"x and score must both be float32 or float64, got {x.dtype}, {score.dtype}"
        )
    if ancestors.dtype != torch.int32 or rng.dtype != torch.int64:
        raise TypeError(
            f"ancestors must be int32 and rng int64, got {ancestors.dtype} and {rng.dtype}"
        )
    if coefficients.dtype != torch.float64:
        raise TypeError(f"coefficients must be float64, got {coefficients.dtype}")
    if x.dim() < 2 or score.shape != x.shape:
        raise ValueError(
            "x and score must be [P, N, *shape] of one shape, "
            f"got {tuple(x.shape)} and {tuple(score.shape)}"
        )
    populations, particles = x.shape[:2]
    wanted = {"ancestors": (populations, particles), "coefficients": (populations, 3), "rng": (2,)}
    given = {"ancestors": ancestors, "coefficients": coefficients, "rng": rng}
    for name, shape in wanted.items():
        if given[name].shape != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(given[name].shape)}")
    if any(t.device != x.device for t in (score, ancestors, coefficients, rng)):
        raise ValueError("x, score, ancestors, coefficients and rng must be on one device")
    if torch.is_grad_enabled() and (x.requires_grad or score.requires_grad):
        raise RuntimeError("propagate has no derivative: call it under torch.no_grad()")
    elements = x[0, 0].numel() if x.numel() else 0
    flat = (populations, particles, elements)
    moved, ratio = torch.ops.edmfast.propagate(
        x.reshape(flat), score.reshape(flat), ancestors, coefficients, rng, first_population
    )
    return moved.reshape(x.shape), ratio
