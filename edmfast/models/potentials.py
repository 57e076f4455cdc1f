"""Scalar potentials of a vector-valued backbone h, and the energy and field made from them.

"inner"     <h, y>         Thornton et al. 2025, arXiv 2502.12786
"residual"  -|y - h|²/2    Salimans & Ho 2021, "Should EBMs model the energy or the score?"
"norm"      -|h|²/2        Du et al. 2023, arXiv 2302.11552

With weight w per row, E = |y|²/2 - w f(y), and the field is a linear combination of grad(w f) and y:
a score or a denoised state, by its two coefficients.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edmfast._internal.derivatives import leaf_of, values_and_slope
from edmfast._internal.dispatch import operators_work
from edmfast.ops import potential, potential_assemble

Head = Callable[[Tensor, Tensor], Tensor]
Network = Callable[[Tensor], Tensor]
Field = Callable[[Tensor, Tensor], Tensor]
"""(a, b, both [B] or [1]) -> a grad(w f) + b y, like y."""


def _inner(h: Tensor, y: Tensor) -> Tensor:
    return (h * y).flatten(1).sum(1)


def _residual(h: Tensor, y: Tensor) -> Tensor:
    return -0.5 * (y - h).square().flatten(1).sum(1)


def _norm(h: Tensor, y: Tensor) -> Tensor:
    return -0.5 * h.square().flatten(1).sum(1)


POTENTIALS: dict[str, Head] = {"inner": _inner, "residual": _residual, "norm": _norm}


class Potential:
    """A potential by its name. Raises ValueError listing the names for an unknown one."""

    def __init__(self, name: str) -> None:
        if name not in POTENTIALS:
            raise ValueError(f"potential must be one of {sorted(POTENTIALS)}, given {name!r}")
        self.name, self.head = name, POTENTIALS[name]

    def energy(self, network: Network, y: Tensor, weight: Tensor) -> Tensor:
        """|y|²/2 - weight f(y), [B]. network: y -> h like y."""
        h = network(y)
        if self.has_operators():
            return potential(h.to(y.dtype), y, weight)[0]
        return _quadratic(y) - weight * self.head(h, y)

    def energy_and_field(
        self, network: Network, y: Tensor, weight: Tensor, differentiable: bool
    ) -> tuple[Tensor, Field]:
        """(E [B], field); without graph unless differentiable."""
        if self.has_operators():
            with torch.enable_grad():
                leaf = leaf_of(y, differentiable)
                return _inner_field(network(leaf), leaf, weight, differentiable)
        (f,), slope = values_and_slope(
            lambda y: (weight * self.head(network(y), y),), y, recorded=differentiable
        )
        y = y if differentiable else y.detach()
        return _quadratic(y) - f, lambda a, b: _column(a, y) * slope + _column(b, y) * y

    def has_operators(self) -> bool:
        """Whether the inner-product potential is computed by operators."""
        return self.name == "inner" and operators_work()


def _inner_field(
    h: Tensor, y: Tensor, weight: Tensor, differentiable: bool
) -> tuple[Tensor, Field]:
    """grad(w <h, y>) = w h + J_hᵀ (w y): the network's backward pulls back the cotangent w y."""
    wide = h.to(y.dtype)
    if differentiable:
        # the operator has two orders only, and a score has all of them
        energy, cotangent = potential(wide, y, weight)[0], _column(weight, y) * y
    else:
        energy, cotangent = potential(wide.detach(), y.detach(), weight.detach())
    (pullback,) = torch.autograd.grad(
        wide, y, cotangent, create_graph=differentiable, materialize_grads=True
    )
    if not differentiable:
        wide, y = wide.detach(), y.detach()

    def field(a: Tensor, b: Tensor) -> Tensor:
        coefficients = torch.stack(torch.broadcast_tensors(a * weight, a, b), 1)
        return potential_assemble(wide, pullback, y, coefficients)

    return energy, field


def _quadratic(y: Tensor) -> Tensor:
    return 0.5 * y.square().flatten(1).sum(1)


def _column(numbers: Tensor, y: Tensor) -> Tensor:
    return numbers.reshape(-1, *[1] * (y.dim() - 1))
