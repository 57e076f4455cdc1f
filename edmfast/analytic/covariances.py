"""The covariances of the components of a mixture, full or low-rank beside a diagonal, and their eigenvectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from edmfast._internal.noise_levels import check_level
from edmfast._internal.numbers import as_numbers

_ASYMMETRY = 1e-6
"""The largest accepted difference between a matrix and its transpose, relative to the largest number in it."""

Covariances = torch.Tensor | Sequence[Any]
"""[K, D, D], or a pair (diagonal [K, D], factors [K, D, R]) for diag(diagonal_k) + factors_k factors_kᵀ."""


def as_covariances(covariances: Covariances, components: int, dim: int) -> torch.Tensor:
    """Return covariances as float64 [K, D, D], exactly symmetric.

    Raises ValueError for other shapes, for numbers that are not finite, for matrices that are not symmetric, and
    for a negative diagonal beside factors.
    """
    if isinstance(covariances, tuple):
        full = _from_factors(covariances, components, dim)
    else:
        full = as_numbers("covariances", covariances)
    if full.shape != (components, dim, dim):
        raise ValueError(
            f"covariances must be [K, D, D] = {[components, dim, dim]}, or a tuple (diagonal [K, D], factors "
            f"[K, D, R]), given {[*full.shape]}"
        )
    asymmetry = (full - full.mT).abs().max()
    if asymmetry > _ASYMMETRY * full.abs().max():
        raise ValueError(
            f"covariances must be symmetric, given a matrix that differs from its transpose by {asymmetry:g}"
        )
    return 0.5 * (full + full.mT)


def eigen_of(covariances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (eigenvalues [K, D], eigenvectors as columns [K, D, D]) of covariances [K, D, D].

    Raises ValueError where a matrix is not positive definite.
    """
    values, vectors = torch.linalg.eigh(covariances)
    if (values <= 0).any():
        raise ValueError(
            f"covariances must be positive definite, given a smallest eigenvalue of {values.min():g}"
        )
    for value in (float(values.min()), float(values.max())):
        check_level("the root of an eigenvalue of covariances", value**0.5)
    return values, vectors


def _from_factors(parts: tuple[Any, ...], components: int, dim: int) -> torch.Tensor:
    if len(parts) != 2:
        raise ValueError(
            f"covariances as a tuple must be (diagonal [K, D], factors [K, D, R]), given {len(parts)} parts"
        )
    diagonal, factors = as_numbers("diagonal", parts[0]), as_numbers("factors", parts[1])
    if diagonal.shape != (components, dim) or factors.shape[:-1] != (components, dim):
        raise ValueError(
            f"covariances as a tuple must be (diagonal [K, D], factors [K, D, R]) with "
            f"[K, D] = {[components, dim]}, given {[*diagonal.shape]} and {[*factors.shape]}"
        )
    if (diagonal < 0).any():
        raise ValueError(f"diagonal must not be negative, given {diagonal.min():g}")
    return torch.diag_embed(diagonal) + factors @ factors.mT
