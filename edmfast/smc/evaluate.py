"""Evaluates a target on all particles of all populations: energy, score and, if asked, curvature.

The curvature of one particle is v·(grad S) v / (A d) with one Rademacher probe v (Hutchinson 1990),
whose mean is tr(grad S)/(A d). On the CPU the network sees whole groups of populations, of a size that
depends on the number of particles only, so that a population has the same bits whatever runs beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast.models.rows import for_rows
from edmfast.ops import standard_normal

_PROBE_STREAM = 2
_MIN_ROWS = 256


@dataclass
class Evaluation:
    """energy [P, N] as the target gives it, half precisions widened; score [P, N, *shape]; curvature
    float64 [P, N] or None."""

    energy: Tensor
    score: Tensor
    curvature: Tensor | None


def evaluate(
    target: Any,
    x: Tensor,
    sigma: float | Tensor,
    *,
    rng: Tensor,
    probe: bool,
    first_population: int = 0,
    batch_size: int | None = None,
) -> Evaluation:
    """x [P, N, *shape] at one noise level; one NFE. rng: int64 [2], of the probe. batch_size: most
    rows per call of the target.

    Raises ValueError where the target returns other shapes, or a score without a graph to probe.
    """
    populations, particles = x.shape[:2]
    rows = x.flatten(0, 1)
    v = None
    if probe:
        normal = standard_normal(
            x, rng=rng, stream=_PROBE_STREAM, first_population=first_population
        )
        v = torch.where(normal < 0, -1.0, 1.0).to(x.dtype).flatten(0, 1)
    size = batch_size or _group_rows(x, particles)
    parts = [
        _evaluate_rows(
            for_rows(target, start, min(start + size, len(rows)), len(rows)),
            rows[start : start + size],
            sigma,
            None if v is None else v[start : start + size],
        )
        for start in range(0, len(rows), size)
    ]
    energy, score, curvature = zip(*parts, strict=True)
    shape = (populations, particles)
    energies = _joined(energy)
    if energies.dtype not in (torch.float32, torch.float64):
        energies = energies.float()
    return Evaluation(
        energies.reshape(shape),
        _joined(score).reshape(x.shape),
        None if not probe else _joined(curvature).double().reshape(shape),
    )


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    """A single part as it is: on a GPU the score would else be copied in every step."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _group_rows(x: Tensor, particles: int) -> int:
    if x.device.type != "cpu":
        return max(1, x.shape[0] * particles)
    return particles * max(1, _MIN_ROWS // particles)


def _evaluate_rows(
    target: Any, x: Tensor, sigma: float | Tensor, v: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    if v is None:
        with torch.no_grad():
            energy, score = target.energy_and_score(x, sigma)
        _check(energy, score, x)
        return energy, score, None
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        energy, score = target.energy_and_score(x, sigma)
        _check(energy, score, x)
        if not score.requires_grad:
            raise ValueError(
                f"curvature matching differentiates the score, but {type(target).__name__} returns "
                "it without a graph; use proposal='noise_matched' or a calibrated table"
            )
        (product,) = torch.autograd.grad((score * v).sum(), x)
    elements = x[0].numel()
    curvature = (product * v).flatten(1).sum(1) / (elements * float(target.exponent))
    return energy.detach(), score.detach(), curvature


def _check(energy: Tensor, score: Tensor, x: Tensor) -> None:
    if energy.shape != x.shape[:1] or score.shape != x.shape:
        raise ValueError(
            f"energy_and_score must return shapes {tuple(x.shape[:1])} and {tuple(x.shape)}, "
            f"got {tuple(energy.shape)} and {tuple(score.shape)}"
        )
