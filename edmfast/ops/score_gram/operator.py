"""`score_gram`: inner products ``G_ij = <s_i, s_j>`` and ``n_i = <s_i, v>`` for every particle, in one pass.

Each weight that needs scores alone is a small formula in G and n. With S = Σ a_i s_i and δ_t = τ²/2, the
Feynman–Kac corrector is ``δ_t (aᵀ G a - Σ a_i G_ii)``, of which annealing, guidance and products are cases.
SuperDiff's log-density along a path is ``Δ log p_i = <s_i, Δx> - δ_t G_ii``. Products are taken and summed in
float64, where the products of float32 and half precisions are exact. So differences such as ``G_11 - 2 G_12 +
G_22`` keep the digits that the scores have.

There is no derivative: inputs that require grad raise under grad mode, and inputs with a tangent always do.
Sources: Skreta et al. 2025, arXiv 2503.02819; Skreta et al. 2024 (SuperDiff), arXiv 2412.17762.
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
    # an operator returns tensors only, so an absent result is empty
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
    """Return (G float64 [P, N, M, M], symmetric; n float64 [P, N, M], or None without displacement).

    scores: [M, P, N, *shape] with M from 1 to 8, float16, bfloat16, float32 or float64, in units of 1/x.
    displacement: [P, N, *shape] of the same dtype, any vector for each particle: the noise z of a step, or a
    move Δx.

    G has units of 1/x², n has units of displacement / x. The bits of a particle depend neither on the other
    particles nor on the number of threads. Elements that are not finite make the products that they enter not
    finite.

    Raises TypeError for dtypes, ValueError for shapes, devices or the number of scores, RuntimeError for inputs
    that require grad or carry a tangent.
    Sources: Skreta et al. 2025, arXiv 2503.02819; Skreta et al. 2024 (SuperDiff), arXiv 2412.17762.
    """
    if scores.dtype not in DTYPES:
        raise TypeError(f"scores must be float32, float64, float16 or bfloat16, got {scores.dtype}")
    if scores.dim() < 3:
        raise ValueError(f"scores must be [M, P, N, *shape], got shape {tuple(scores.shape)}")
    if not 1 <= scores.shape[0] <= MAX_SCORES:
        raise ValueError(f"1 to {MAX_SCORES} scores are needed, got {scores.shape[0]}")
    if displacement is not None:
        _check_displacement(displacement, scores)
    refuse_derivatives("score_gram", scores, displacement)
    # the operator takes elements as one dimension
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
