"""The inner-product potential with two derivatives, and the assembly of a score from it, in plain torch.

For each row E = |y|²/2 - w <h, y>, and w y is the cotangent of the network's output. With p = J_hᵀ (w y) the
gradient of w <h(y), y> is w h + p, so a score and a denoised state have the form c_0 h + c_1 p + c_2 y. Shapes:
h, p, y [B, d]; w, E [B]; coefficients [B, 3].
Source: Thornton et al. 2025, arXiv 2502.12786 (inner-product energies).
"""

from __future__ import annotations

import torch
from torch import Tensor


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Return the inner product of each row in float64."""
    return (left.double() * right.double()).sum(1)


def potential(h: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return (E [B], w y). The results of all functions here are contiguous, whatever the inputs are."""
    # the two terms may nearly cancel, so they are subtracted in float64
    energy = 0.5 * _dot(y, y) - weight.double() * _dot(h, y)
    return energy.to(y.dtype), (weight[:, None] * y).contiguous()


def fused_potential(h: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same as `potential`, by a formula whose derivatives a compiler fuses at the speed of plain torch.

    The products and sums are in the dtype of the states, so this is for short rows; the two terms are still
    subtracted in float64.
    """
    square, inner = ((left * y).sum(1).double() for left in (y, h))
    energy = 0.5 * square - weight.double() * inner
    return energy.to(y.dtype), weight[:, None] * y


def _or_zeros(
    grad_energy: Tensor | None, grad_cotangent: Tensor | None, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Return both cotangents, with zeros in the place of an absent one."""
    return (
        y.new_zeros(len(y)) if grad_energy is None else grad_energy,
        torch.zeros_like(y) if grad_cotangent is None else grad_cotangent,
    )


def potential_backward(
    grad_energy: Tensor | None,
    grad_cotangent: Tensor | None,
    h: Tensor,
    y: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cotangents of h, y and w, from e [B] of the energy and v [B, d] of the cotangent w y."""
    e, v = _or_zeros(grad_energy, grad_cotangent, y)
    w, ew = weight[:, None], (e * weight)[:, None]
    to_weight = _dot(v, y) - e.double() * _dot(h, y)
    to_y = e[:, None] * y - ew * h + w * v
    return (-ew * y).contiguous(), to_y.contiguous(), to_weight.to(y.dtype)


def potential_double_backward(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    grad_energy: Tensor | None,
    grad_cotangent: Tensor | None,
    h: Tensor,
    y: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the cotangents of e, v, h, y and w, from a, b and c of what `potential_backward` returns."""
    e, v = _or_zeros(grad_energy, grad_cotangent, y)
    w, ew, ce = weight[:, None], (e * weight)[:, None], (c * e)[:, None]
    crossed = _dot(a, y) + _dot(b, h)
    to_e = _dot(b, y) - weight.double() * crossed - c.double() * _dot(h, y)
    to_y = e[:, None] * b - ew * a - ce * h + c[:, None] * v
    to_weight = _dot(b, v) - e.double() * crossed
    return (
        to_e.to(y.dtype),
        (w * b + c[:, None] * y).contiguous(),
        (-ew * b - ce * y).contiguous(),
        to_y.contiguous(),
        to_weight.to(y.dtype),
    )


def potential_assemble(h: Tensor, pullback: Tensor, y: Tensor, coefficients: Tensor) -> Tensor:
    """Return c_0 h + c_1 pullback + c_2 y, [B, d]."""
    c0, c1, c2 = (column[:, None] for column in coefficients.unbind(1))
    return (c0 * h + c1 * pullback + c2 * y).contiguous()


def potential_field(
    h: Tensor, pullback: Tensor, y: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (E [B], c_0 h + c_1 pullback + c_2 y [B, d]). numbers: (w, c_0, c_1, c_2), [B, 4] or [1, 4]."""
    weight, coefficients = numbers[:, 0].expand(len(y)), numbers[:, 1:].expand(len(y), 3)
    return potential(h, y, weight)[0], potential_assemble(h, pullback, y, coefficients)


def potential_assemble_backward(
    grad: Tensor, h: Tensor, pullback: Tensor, y: Tensor, coefficients: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the cotangents of h, pullback, y and the coefficients."""
    c0, c1, c2 = (column[:, None] for column in coefficients.unbind(1))
    sums = torch.stack([_dot(grad, h), _dot(grad, pullback), _dot(grad, y)], 1)
    to_h, to_pullback, to_y = ((column * grad).contiguous() for column in (c0, c1, c2))
    return to_h, to_pullback, to_y, sums.to(y.dtype)
