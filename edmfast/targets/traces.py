"""Scores together with the trace of their Jacobian: exact where a model offers it, by Hutchinson probes otherwise.

The exact trace comes from the optional method `jacobian_trace(x, sigma, **condition) -> tr dD/dx [B]` of a model,
where D denotes its denoised states:

    tr(grad S) = A (tr dD/dx - d)/sigma²,    d = numbers in one sample, A = exponent of the model.

Otherwise the trace is the mean over probes v of v·(grad S) v, which is unbiased for probes of independent entries
with mean 0 and variance 1. One forward pass of the score serves all probes, and each probe costs one
vector-Jacobian product. Source: Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix".

The score of a tilt is differentiated without the tilt's own share, whose derivative would be a third derivative
of networks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edmfast._internal.broadcast import row_factors, row_numbers
from edmfast._internal.derivatives import refuse_tangents
from edmfast.models.calling.foreign import (
    call_denoiser,
    call_energy,
    call_jacobian_trace,
    name_of,
)
from edmfast.models.calling.second_order import second_derivatives
from edmfast.models.preconditioning import expand_sigma, refuse_zero
from edmfast.targets.algebra import WeightedSum
from edmfast.targets.conditioned import Conditioned
from edmfast.targets.exponents import exponent_of
from edmfast.targets.parts import parts_of
from edmfast.targets.protocols import Model
from edmfast.targets.renamed import Renamed
from edmfast.targets.scores import has_energy, score_of, score_scale
from edmfast.targets.tilt_gradients import detached_tilts


def has_exact_trace(model: Model) -> bool:
    """Return whether `exact_trace` works: the model, or every model of a sum, has the method `jacobian_trace`."""
    inner: Any = model
    while isinstance(inner, (Conditioned, Renamed)):
        inner = inner.model
    if isinstance(inner, WeightedSum):
        return all(has_exact_trace(leaf) for _, leaf in inner.terms())
    return callable(getattr(inner, "jacobian_trace", None))


def exact_trace(model: Model, x: Tensor, sigma: float | Tensor, **condition: Any) -> Tensor:
    """Return the exact trace of grad S, float64 [B], for states x [B, *shape] at levels sigma: a float, [] or [B].

    Sums of models, conditions and other names of conditions pass the question on to the models within.

    Raises ValueError where a model has no method `jacobian_trace`.
    """
    levels = expand_sigma(sigma, x).reshape(-1).double()
    total = torch.zeros_like(levels)
    for a, leaf, its_condition in parts_of(model, x, condition):
        if not callable(getattr(leaf, "jacobian_trace", None)):
            raise ValueError(
                f"{name_of(leaf)} has no method jacobian_trace(x, sigma) -> tr dD/dx [B], so its trace is not "
                "exact: pass probes"
            )
        trace = call_jacobian_trace(leaf, x, sigma, **its_condition).double()
        share = row_numbers(a * exponent_of(leaf), levels)
        total = total + share * (trace - x[:1].numel()) / levels.square()
    return total


def score_and_trace(
    model: Model, x: Tensor, sigma: float | Tensor, probes: Tensor | None = None, **condition: Any
) -> tuple[Tensor, Tensor]:
    """Return (S like x, the trace of grad S float64 [B]), both detached.

    Args:
        model: an energy, a denoiser, or a combination of them.
        x: the states [B, *shape].
        sigma: a float, [] or [B], positive.
        probes: [B, K, *shape], independent entries of mean 0 and variance 1, such as random signs; the trace is
            the mean over them. None takes the exact trace of models that have the method `jacobian_trace`.
        condition: keyword conditions for the model.

    Raises:
        ValueError: no probes for a model without `jacobian_trace`, probes of another shape, or a score without a
            graph to differentiate.
    """
    if probes is None:
        with torch.no_grad():
            trace = exact_trace(model, x, sigma, **condition)
            score = score_of(model, x, sigma, **condition)
        refuse_tangents("score_and_trace", score, trace)
        return score, trace
    score, products = score_and_products(model, x, sigma, probes, **condition)
    return score, (products.double() * probes.double()).flatten(2).sum(2).mean(1)


def score_and_products(
    model: Model, x: Tensor, sigma: float | Tensor, probes: Tensor, **condition: Any
) -> tuple[Tensor, Tensor]:
    """Return (S like x, the products (grad S)ᵀ v [B, K, *shape] with the K probes v of each row), both detached.

    One forward pass serves all probes. A row has the same bits whatever else is in the batch, as far as the
    model's own results have them. See `score_and_trace` for the arguments and errors.
    """
    _, score, products = energy_score_and_products(model, x, sigma, probes, **condition)
    return score, products


def energy_score_and_products(
    model: Model, x: Tensor, sigma: float | Tensor, probes: Tensor, **condition: Any
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return (U [B] in nats, S, products) by one forward pass, all detached; U is None without an energy.

    See `score_and_products`.
    """
    count = probes.shape[1] if probes.dim() == x.dim() + 1 else 0
    if count == 0 or probes.shape != (len(x), count, *x.shape[1:]):
        raise ValueError(
            f"probes must be [B, K, *shape] with K > 0 for states {[*x.shape]}, given {[*probes.shape]}"
        )
    # The models of an energy are evaluated together, which is faster.
    if has_energy(model):
        return _of_one(model, x, sigma, probes, condition)
    total: tuple[Tensor, Tensor] | None = None
    for a, leaf, its_condition in parts_of(model, x, condition):
        _, score, products = _of_one(leaf, x, sigma, probes, its_condition)
        # most models are no sums, and need no more passes over their products
        if isinstance(a, Tensor) or a != 1:
            score, products = row_factors(a, score) * score, row_factors(a, products) * products
        total = (score, products) if total is None else (total[0] + score, total[1] + products)
    assert total is not None
    return None, *total


def _of_one(
    model: Any, x: Tensor, sigma: float | Tensor, probes: Tensor, condition: dict[str, Any]
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return `energy_score_and_products` of an energy, or of a denoiser that is no sum."""
    plain, energy = not has_energy(model), None
    with torch.enable_grad(), detached_tilts():
        point = x.detach().requires_grad_()
        if plain:
            # The score (D - x)/sigma² of a denoiser has a graph even where D has lost its own.
            refuse_zero(model, sigma)
            result = call_denoiser(model, point, sigma, **condition)
        else:
            energy, result = call_energy(model, point, sigma, **condition)
        products = _products(model, result, point, probes)
    # The results are detached, so a tangent in the model's numbers would be lost.
    refuse_tangents("score_and_trace", result)
    result = result.detach()
    if energy is not None:
        return energy.detach(), result, products
    scale = score_scale(model, x, sigma)
    # The differences are new tensors, so scaling them in place saves two passes over memory.
    score, pushed = (result - x).mul_(scale), products - probes.to(x.dtype)
    return None, score, pushed.mul_(scale[:, None])


def _products(model: Any, result: Tensor, point: Tensor, probes: Tensor) -> Tensor:
    """Return the vector-Jacobian products of `result` at the point with all probes, [B, K, *shape]."""
    # A loop takes no more time than one call with is_grads_batched on a CPU (measured on a perceptron and a U-Net
    # with 1 to 8 probes), and it also differentiates operators without a batching rule.
    products, count = [], probes.shape[1]
    with second_derivatives():
        for k in range(count):
            product = None
            if result.requires_grad:
                v = probes[:, k].to(result.dtype)
                (product,) = torch.autograd.grad(
                    result, point, v, retain_graph=k + 1 < count, allow_unused=True
                )
            if product is None:
                raise ValueError(
                    f"the trace of the score's Jacobian differentiates {name_of(model)}, which returns a result "
                    "without a graph: remove torch.no_grad or detach from it, give it a method "
                    "jacobian_trace(x, sigma) -> tr dD/dx [B] (0 where the result does not depend on x), or use "
                    "weights='score', which need no trace"
                )
            products.append(product)
    return torch.stack(products, 1) if count > 1 else products[0][:, None]
