"""Inner products of several scores, and with a displacement, for every particle in one pass.

``G_ij = <s_i, s_j>`` and ``n_i = <s_i, v>``. Every score-only weight is a small formula in them. With
S = Σ a_i s_i and δ_t = τ²/2, the Feynman-Kac corrector is ``δ_t (aᵀ G a - Σ a_i G_ii)`` (annealing,
guidance and product are cases of it), and SuperDiff's log-density along a path is
``Δ log p_i = <s_i, Δx> - δ_t G_ii``. Source: Skreta et al. 2025, arXiv 2503.02819; Skreta et al. 2024
(SuperDiff), arXiv 2412.17762. Products are taken in float64, where those of float32 or less are
exact, and summed in float64, so that differences such as ``G_11 - 2 G_12 + G_22`` keep the digits the
scores have. Not differentiable: inputs that require grad raise under grad mode, those with a
tangent always.
"""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from edmfast import _extension
from edmfast._internal.derivatives import refuse_derivatives
from edmfast.ops._shared.dtypes import DTYPES
from edmfast.ops.score_gram import reference

MAX_SCORES = 8


def _fake(scores: Tensor, displacement: Tensor | None) -> tuple[Tensor, Tensor]:
    count, populations, particles = scores.shape[:3]
    columns = 0 if displacement is None else count
    return (
        scores.new_empty((populations, particles, count, count), dtype=torch.float64),
        scores.new_empty((populations, particles, columns), dtype=torch.float64),
    )


_extension.define(
    "score_gram(Tensor scores, Tensor? displacement) -> (Tensor, Tensor)",
    reference.score_gram,
    _fake,
)


@overload
def score_gram(scores: Tensor, displacement: None = None) -> tuple[Tensor, None]: ...
@overload
def score_gram(scores: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]: ...
def score_gram(scores: Tensor, displacement: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Returns (G float64 [P, N, M, M], symmetric; n float64 [P, N, M], or None without displacement).

    scores: [M, P, N, *shape], M of 1 to 8, one of float32, float64, float16, bfloat16; in units of
    1/x. displacement: [P, N, *shape] of the same dtype, any vector per particle: the noise z of a
    step, or a move Δx. G has the units of 1/x², n those of displacement / x.

    A particle's numbers depend on its own scores only, not on its company or the threads. Non-finite
    elements make the products they enter non-finite.

    Raises TypeError for dtypes, ValueError for shapes, devices or the number of scores, RuntimeError
    for inputs that require grad or carry a tangent.
    """
    if scores.dtype not in DTYPES:
        raise TypeError(f"scores must be float32, float64, float16 or bfloat16, got {scores.dtype}")
    if scores.dim() < 3:
        raise ValueError(f"scores must be [M, P, N, *shape], got shape {tuple(scores.shape)}")
    if not 1 <= scores.shape[0] <= MAX_SCORES:
        raise ValueError(f"between 1 and {MAX_SCORES} scores, got {scores.shape[0]}")
    if displacement is not None:
        _check_displacement(displacement, scores)
    refuse_derivatives("score_gram", scores, displacement)
    rows = scores.shape[1:3]
    elements = scores.shape[3:].numel()
    flat = None if displacement is None else displacement.reshape(*rows, elements)
    gram, along = torch.ops.edmfast.score_gram(
        scores.reshape(scores.shape[0], *rows, elements), flat
    )
    return gram, None if displacement is None else along


def _check_displacement(displacement: Tensor, scores: Tensor) -> None:
    if displacement.dtype != scores.dtype:
        raise TypeError(
            f"displacement must have the dtype of scores, {scores.dtype}, got {displacement.dtype}"
        )
    if displacement.shape != scores.shape[1:]:
        raise ValueError(
            f"displacement must be [P, N, *shape] = {tuple(scores.shape[1:])}, "
            f"got {tuple(displacement.shape)}"
        )
    if displacement.device != scores.device:
        raise ValueError(f"displacement is on {displacement.device}, scores on {scores.device}")
