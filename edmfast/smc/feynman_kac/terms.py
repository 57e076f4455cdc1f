"""Evaluate the models of a product on all particles: energies, scores, and the traces of the scores' Jacobians.

A trace tr(grad s) comes from a model's own method `jacobian_trace`, or from K probes v by the products (grad s) v
with E[v vᵀ] = I, as the mean of <v, (grad s) v> (Hutchinson 1990). All products of a model come from one forward
pass. Where neither is wanted, the scores are evaluated alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.derivatives import refuse_tangents
from edmfast.models.calling.foreign import call_energy
from edmfast.smc.feynman_kac.evaluate import in_groups
from edmfast.targets.scores import has_energy, score_of
from edmfast.targets.traces import energy_score_and_products, exact_trace


@dataclass(frozen=True)
class Terms:
    """The results of one evaluation of M models at states [P, N, *shape].

    energies: [M, P, N] in nats, or None where a model is a plain denoiser. scores: [M, P, N, *shape]. traces:
    exact ones, float64 [M, P, N], or None. products: M tensors [P, N, K, *shape], (grad s) v for every probe v,
    or an empty tuple.
    """

    energies: Tensor | None
    scores: Tensor
    traces: Tensor | None = None
    products: tuple[Tensor, ...] = ()


def evaluate_terms(
    models: Sequence[Any],
    x: Tensor,
    sigma: float | Tensor,
    *,
    probes: Tensor | None = None,
    exact: bool = False,
    batch_size: int | None = None,
) -> Terms:
    """Evaluate M energies or denoisers at states x [P, N, *shape] of one noise level: one NFE.

    probes: [P, N, K, *shape], or None. exact: take the exact traces of the models instead. batch_size: most rows
    in one call of the models.

    Raises ValueError for a model that returns another shape, or whose score has no graph to probe.
    """
    with_energies = all(map(has_energy, models))

    def call(*models_and_rows: Any) -> tuple[Tensor, ...]:
        parts = models_and_rows[: len(models)]
        rows, *vectors = models_and_rows[len(models) :]
        results = [_evaluate_rows(part, rows, sigma, *vectors, exact=exact) for part in parts]
        # by kind and then by model: energies where all have one, scores, and traces or products
        kinds = [*zip(*results, strict=True)][0 if with_energies else 1 :]
        return tuple(result for kind in kinds for result in kind)

    tensors = [x] if probes is None else [x, probes]
    results = in_groups(call, models, tensors, batch_size)
    # A run detaches what it computes, so a tangent in the model's numbers would be lost.
    refuse_tangents("a run", *results)
    kinds = [results[i : i + len(models)] for i in range(0, len(results), len(models))]
    energies = _stacked([*map(_widened, kinds.pop(0))]) if with_energies else None
    scores, *more = kinds
    if exact:
        return Terms(energies, _stacked(scores), traces=_stacked(more[0]))
    return Terms(energies, _stacked(scores), products=tuple(more[0]) if more else ())


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Return the results [M, ...] of M models; those of a single model need no copy."""
    return torch.stack([*tensors]) if len(tensors) > 1 else tensors[0][None]


def _evaluate_rows(
    model: Any, x: Tensor, sigma: float | Tensor, v: Tensor | None = None, *, exact: bool
) -> tuple[Tensor | None, ...]:
    """Return (energy or None, score) of every row, then its exact trace, or its products with v, if given."""
    if v is not None:
        return energy_score_and_products(model, x, sigma, v)
    with torch.no_grad():
        if has_energy(model):
            energy, score = call_energy(model, x, sigma)
        else:
            energy, score = None, score_of(model, x, sigma)
        return (energy, score, exact_trace(model, x, sigma)) if exact else (energy, score)


def _widened(energy: Tensor) -> Tensor:
    # differences of energies in half precision would lose the weights
    return energy if energy.dtype in (torch.float32, torch.float64) else energy.float()
