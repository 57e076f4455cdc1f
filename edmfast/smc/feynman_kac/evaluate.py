"""Evaluate targets on all particles of all populations: energy, score and curvature, or scores alone.

The curvature of one particle is v·(grad S) v / (A d) with one Rademacher probe v (Hutchinson 1990), whose mean is
tr(grad S)/(A d). On the CPU the network sees whole groups of populations, whose size depends on the number and
shape of the particles only, so that a population has the same bits whatever runs beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.broadcast import population_factors
from edmfast._internal.derivatives import refuse_tangents
from edmfast._internal.rows import for_rows
from edmfast.models.calling.foreign import call_energy
from edmfast.models.calling.second_order import second_derivatives
from edmfast.models.together import energy_score_and_curvature
from edmfast.ops import curvature, random_signs
from edmfast.targets.exponents import Exponent
from edmfast.targets.scores import score_of
from edmfast.targets.tilt_gradients import detached_tilts

PROBE_STREAM = 2
_MIN_ROWS, _MAX_ROWS, _NUMBERS = 256, 4096, 1 << 18
"""Bounds on the rows of a group, and the numbers in it. Small states take many rows, so that the fixed cost of a
call is small beside them; images take few, since their activations need memory."""


@dataclass
class Evaluation:
    """The result of one evaluation of all particles.

    energy: [P, N] in the target's dtype, half precisions widened to float32. score: [P, N, *shape], or
    [M, P, N, *shape] of M models. kernel: numbers of the next move, see `ParticleState`, or None. increment:
    float64 [P, N], what the next move adds to the log-weights where that is known before it, or None.
    """

    energy: Tensor
    score: Tensor
    kernel: Tensor | None = None
    increment: Tensor | None = None


def in_groups(
    call: Callable[..., tuple[Tensor, ...]],
    holders: Sequence[Any],
    tensors: Sequence[Tensor],
    batch_size: int | None,
) -> tuple[Tensor, ...]:
    """Return call(*holders, *tensors), with tensors [P, N, ...] flattened to rows and split into groups.

    holders: models or rewards, which are cut to the same rows where they hold conditions. `call` returns tensors
    of B rows for B rows; they come back as [P, N, ...]. batch_size: most rows of a group, None for a size that
    suits the device.
    """
    populations, particles = tensors[0].shape[:2]
    count = populations * particles
    rows = [tensor.flatten(0, 1) for tensor in tensors]
    size = batch_size or _group_rows(tensors[0], particles)
    if size >= count:  # nothing to cut
        results = call(*(for_rows(holder, 0, count, count) for holder in holders), *rows)
        return tuple(
            result.reshape(populations, particles, *result.shape[1:]) for result in results
        )
    parts = []
    for start in range(0, count, size):
        stop = min(start + size, count)
        cut = [for_rows(holder, start, stop, count) for holder in holders]
        parts.append(call(*cut, *(tensor[start:stop] for tensor in rows)))
    return tuple(
        joined.reshape(populations, particles, *joined.shape[1:])
        for joined in map(torch.cat, zip(*parts, strict=True))
    )


def evaluate(
    target: Any,
    x: Tensor,
    sigma: float | Tensor,
    *,
    rng: Tensor,
    probe: bool,
    first_population: int = 0,
    first_particle: int = 0,
    batch_size: int | None = None,
    exponent: Exponent | None = None,
) -> Evaluation:
    """Evaluate a target at states x [P, N, *shape] of one noise level: one NFE.

    rng: int64 [2], the state of the noise of the probe. probe: compute the curvature. batch_size: most rows per
    call of the target. exponent: A of the populations, by default that of the target.

    Raises ValueError where the target returns other shapes, or a score without a graph to probe.
    """
    tensors = [x]
    if probe:
        tensors.append(
            random_signs(
                x,
                rng=rng,
                stream=PROBE_STREAM,
                first_population=first_population,
                first_particle=first_particle,
            )
        )

    def call(part: Any, rows: Tensor, v: Tensor | None = None) -> tuple[Tensor, ...]:
        whole = None if v is None else energy_score_and_curvature(part, rows, sigma, v)
        return whole or _evaluate_rows(part, rows, sigma, v)

    energy, score, *products = in_groups(call, [target], tensors, batch_size)
    # A run detaches what it computes, so a tangent in the model's numbers would be lost.
    refuse_tangents("a run", energy, score)
    # differences of energies in half precision would lose the weights
    if energy.dtype not in (torch.float32, torch.float64):
        energy = energy.float()
    if not probe:
        return Evaluation(energy, score)
    total = target.exponent if exponent is None else exponent
    if products[0].dim() < x.dim():
        # one operator has taken the inner products with the probes already
        scale = population_factors(1 / (total * x[0, 0].numel()), products[0])
        return Evaluation(energy, score, scale * products[0])
    return Evaluation(energy, score, curvature(products[0], tensors[1], total))


def evaluate_scores(
    models: Sequence[Any], x: Tensor, sigma: float | Tensor, *, batch_size: int | None = None
) -> Tensor:
    """Return the scores [M, P, N, *shape] of M energies or denoisers at one noise level: one NFE.

    Raises ValueError for a model that returns another shape.
    """

    def call(*models_and_rows: Any) -> tuple[Tensor, ...]:
        *parts, rows = models_and_rows
        with torch.no_grad():
            return tuple(score_of(part, rows, sigma) for part in parts)

    return torch.stack(in_groups(call, models, [x], batch_size))


def _group_rows(x: Tensor, particles: int) -> int:
    if x.device.type != "cpu":
        return max(1, x.shape[0] * particles)
    rows = min(max(_NUMBERS // max(1, x[0, 0].numel()), _MIN_ROWS), _MAX_ROWS)
    # Groups hold whole populations, so that one has the same bits whatever runs beside it.
    return particles * max(1, rows // particles)


def _evaluate_rows(
    target: Any, x: Tensor, sigma: float | Tensor, v: Tensor | None
) -> tuple[Tensor, ...]:
    """Return (energy, score), followed by (grad S) v of every row where v is given.

    Targets that one operator can take as a whole have been taken before.
    """
    if v is None:
        with torch.no_grad():
            return call_energy(target, x, sigma)
    # The tilt's share of the score is left out: its derivative would be a third derivative of
    # networks.
    with torch.enable_grad(), detached_tilts():
        x = x.detach().requires_grad_()
        energy, score = call_energy(target, x, sigma)
        if not score.requires_grad:
            raise ValueError(
                f"curvature matching differentiates the score, but {type(target).__name__} returns "
                "it without a graph; use proposal='noise_matched' or a calibrated table"
            )
        with second_derivatives():
            (product,) = torch.autograd.grad(score, x, v.to(score.dtype))
    return energy.detach(), score.detach(), product
