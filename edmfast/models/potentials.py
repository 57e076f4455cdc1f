"""Scalar potentials f of a vector-valued backbone h, and the energy and field made from them.

name        f(y)
"inner"     <h, y>         Thornton et al. 2025, arXiv 2502.12786
"residual"  -|y - h|²/2    Salimans & Ho 2021, "Should EBMs model the energy or the score?"
"norm"      -|h|²/2        Du et al. 2023, arXiv 2302.11552

With a weight w per row, the energy is E = |y|²/2 - w f(y), in nats. The field is a linear combination of
grad(w f) and y, whose two coefficients make it a score or a denoised state.
Shapes: y and h [B, *shape]; w, f and E [B].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edmfast._internal.broadcast import unsqueeze_like
from edmfast._internal.derivatives import leaf_of, values_and_slope
from edmfast._internal.dispatch import operators_work
from edmfast.models.level_table import of_level
from edmfast.ops import potential, potential_assemble
from edmfast.ops.potential.operator import potential_field

Head = Callable[[Tensor, Tensor], Tensor]
Network = Callable[[Tensor], Tensor]


class FieldNumbers(NamedTuple):
    """The numbers of the energy |y|²/2 - w f(y) at y = c x, and of the field a grad(w f) + b y, like y."""

    c: Tensor
    """[B, 1, ...], or [1, 1, ...] for one noise level."""
    weight: Tensor
    """w, [B] or [1]."""
    a: Tensor
    """[B] or [1]."""
    b: Tensor
    """[B] or [1]."""


def _inner(h: Tensor, y: Tensor) -> Tensor:
    return (h * y).flatten(1).sum(1)


def _residual(h: Tensor, y: Tensor) -> Tensor:
    return -0.5 * (y - h).square().flatten(1).sum(1)


def _norm(h: Tensor, y: Tensor) -> Tensor:
    return -0.5 * h.square().flatten(1).sum(1)


POTENTIALS: dict[str, Head] = {"inner": _inner, "residual": _residual, "norm": _norm}


class Potential:
    """The potential of a given name. Raises ValueError, which lists the names, for an unknown one."""

    def __init__(self, name: str) -> None:
        if name not in POTENTIALS:
            raise ValueError(f"potential must be one of {sorted(POTENTIALS)}, given {name!r}")
        self.name, self.head = name, POTENTIALS[name]

    def energy(self, network: Network, y: Tensor, weight: Tensor) -> Tensor:
        """Return |y|²/2 - weight f(y), [B]. network: a function y -> h like y. weight: [B]."""
        # no derivative is taken here, so the energy alone costs one forward pass
        h = network(y)
        if self.has_operators():
            # under autocast h may be in half precision, while the energy keeps the dtype of y
            return potential(h.to(y.dtype), y, weight)[0]
        return _quadratic(y) - weight * self.head(h, y)

    def energy_and_field(
        self, network: Network, x: Tensor, numbers: FieldNumbers, differentiable: bool
    ) -> tuple[Tensor, Tensor]:
        """Return (E [B], field like x) at y = c x. Neither carries a graph unless differentiable is True."""
        if self.has_operators() and not differentiable:
            return _detached_inner_field(network, x, numbers)
        c, weight, a, b = numbers
        y, weight = c * x, weight.expand(x.shape[0])
        if self.has_operators():
            with torch.enable_grad():
                leaf = leaf_of(y, differentiable)
                return _inner_field(network(leaf), leaf, weight, a, b)
        (f,), slope = values_and_slope(
            lambda y: (weight * self.head(network(y), y),), y, recorded=differentiable
        )
        # the field must carry no graph either, which y might bring in
        y = y if differentiable else y.detach()
        field = unsqueeze_like(a, y) * slope + unsqueeze_like(b, y) * y
        return _quadratic(y) - f, field

    def has_operators(self) -> bool:
        """Return whether operators compute this potential here: only the inner product has them."""
        return self.name == "inner" and operators_work()


def _inner_field(
    h: Tensor, y: Tensor, weight: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (E, field) of the inner product, with a graph: grad(w <h, y>) = w h + J_hᵀ (w y).

    The backward pass of the network pulls back the cotangent w y.
    """
    wide = h.to(y.dtype)
    # the operator has derivatives to second order only, but a score must have all orders
    energy, cotangent = potential(wide, y, weight)[0], unsqueeze_like(weight, y) * y
    (pullback,) = torch.autograd.grad(wide, y, cotangent, create_graph=True, materialize_grads=True)

    def numbers_of(a: Tensor, b: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (side_by_side(a * weight, a, b),)

    prepared = of_level((a, b, weight[:1]), "assemble", (), numbers_of)
    (numbers,) = prepared or numbers_of(a, b, weight)
    return energy, potential_assemble(wide, pullback, y, numbers.expand(y.shape[0], 3))


def _detached_inner_field(
    network: Network, x: Tensor, numbers: FieldNumbers
) -> tuple[Tensor, Tensor]:
    """Return what `_inner_field` returns, without a graph and in fewer passes over memory."""

    def factors_of(c: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (torch.stack([c, unsqueeze_like(weight, c) * c], 1),)

    def field_numbers_of(weight: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor]:
        return (side_by_side(weight, a * weight, a, b),)

    c, weight, a, b = (number.detach() for number in numbers)
    (factors,) = of_level((c, weight), "factors", (), factors_of) or factors_of(c, weight)
    # one product gives the states y = c x and the cotangent w y of the network's output
    y, cotangent = (factors.transpose(0, 1) * x.detach()).unbind(0)
    with torch.enable_grad():
        leaf = y.requires_grad_()
        h = network(leaf).to(y.dtype)
    (pullback,) = torch.autograd.grad(h, leaf, cotangent, materialize_grads=True)
    rows = weight, a, b
    (coefficients,) = of_level(rows, "field", (), field_numbers_of) or field_numbers_of(*rows)
    # the graph of the network is no longer needed, and keeping it would keep its memory
    return potential_field(h.detach(), pullback, y.detach(), coefficients)


def side_by_side(*numbers: Tensor) -> Tensor:
    """Return k tensors [B] or [1], broadcast against each other, as the columns of [B, k]."""
    broadcast: Any = torch.broadcast_tensors  # torch gives it no types
    return torch.stack(broadcast(*numbers), 1)


def _quadratic(y: Tensor) -> Tensor:
    return 0.5 * y.square().flatten(1).sum(1)
