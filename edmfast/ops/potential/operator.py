"""`potential` and `potential_assemble`: the energy E = |y|²/2 - w <h, y> of a network h(y), and its score.

`potential` returns E and the cotangent w y in one pass. The backward of the network turns the cotangent into
J_hᵀ (w y), and `potential_assemble` makes the score c_in (w h + J_hᵀ (w y) - y) of it in a second pass. So two
launches surround the forward and the backward of the network. Where no derivative is recorded, `potential_field`
computes E and the score together, after the backward of the network.

Every derivative is an operator too. `potential` is differentiable twice, and a third derivative raises;
`potential_assemble` has derivatives of all orders.
Source: Thornton et al. 2025, arXiv 2502.12786 (inner-product energies).
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from edmfast import _extension
from edmfast._internal.derivatives import refuse_derivatives, refuse_transforms
from edmfast.ops._shared.dtypes import DTYPES, HALVES, widened
from edmfast.ops._shared.fusing import is_fused
from edmfast.ops.potential import reference


def _like(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


def _fake(h: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return _like(weight), _like(y)


def _fake_backward(
    grad_energy: Tensor | None, grad_cotangent: Tensor | None, h: Tensor, y: Tensor, weight: Tensor
) -> tuple[Tensor, ...]:
    return _like(h), _like(y), _like(weight)


def _fake_double_backward(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    grad_energy: Tensor | None,
    grad_cotangent: Tensor | None,
    h: Tensor,
    y: Tensor,
    weight: Tensor,
) -> tuple[Tensor, ...]:
    return _like(weight), _like(y), _like(h), _like(y), _like(weight)


def _fake_assemble(h: Tensor, pullback: Tensor, y: Tensor, coefficients: Tensor) -> Tensor:
    return _like(y)


def _fake_field(h: Tensor, pullback: Tensor, y: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape[0]), _like(y)


def _fake_assemble_backward(
    grad: Tensor, h: Tensor, pullback: Tensor, y: Tensor, coefficients: Tensor
) -> tuple[Tensor, ...]:
    return _like(h), _like(pullback), _like(y), _like(coefficients)


_extension.define(
    "potential(Tensor h, Tensor y, Tensor weight) -> (Tensor, Tensor)",
    reference.potential,
    _fake,
    triton="potential",
)
_extension.define(
    "potential_backward(Tensor? grad_energy, Tensor? grad_cotangent, Tensor h, Tensor y, Tensor weight) "
    "-> (Tensor, Tensor, Tensor)",
    reference.potential_backward,
    _fake_backward,
    triton="potential",
)
_extension.define(
    "potential_double_backward(Tensor a, Tensor b, Tensor c, Tensor? grad_energy, Tensor? grad_cotangent, "
    "Tensor h, Tensor y, Tensor weight) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference.potential_double_backward,
    _fake_double_backward,
    triton="potential",
)
_extension.define(
    "potential_assemble(Tensor h, Tensor pullback, Tensor y, Tensor coefficients) -> Tensor",
    reference.potential_assemble,
    _fake_assemble,
    triton="potential",
)
_extension.define(
    "potential_field(Tensor h, Tensor pullback, Tensor y, Tensor numbers) -> (Tensor, Tensor)",
    reference.potential_field,
    _fake_field,
    triton="potential",
)
_extension.define(
    "potential_assemble_backward(Tensor grad, Tensor h, Tensor pullback, Tensor y, Tensor coefficients) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    reference.potential_assemble_backward,
    _fake_assemble_backward,
    triton="potential",
)


def _save_all(ctx: Any, inputs: tuple[Tensor | None, ...], output: object) -> None:
    # absent cotangents are saved as None, and their gradient is None again
    ctx.save_for_backward(*inputs)
    ctx.set_materialize_grads(False)


def _or_zeros(cotangent: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if cotangent is None else cotangent


def _backward(ctx: Any, e: Tensor | None, v: Tensor | None) -> tuple[Tensor | None, ...]:
    if e is None and v is None:
        return None, None, None
    slopes: tuple[Tensor, ...] = torch.ops.edmfast.potential_backward(e, v, *ctx.saved_tensors)
    return slopes


def _double_backward(
    ctx: Any, a: Tensor | None, b: Tensor | None, c: Tensor | None
) -> tuple[Tensor | None, ...]:
    e, v, h, y, weight = ctx.saved_tensors
    cotangents = _or_zeros(a, h), _or_zeros(b, y), _or_zeros(c, weight)
    to_e, to_v, *rest = torch.ops.edmfast.potential_double_backward(*cotangents, e, v, h, y, weight)
    # an absent cotangent was no tensor, so it has no gradient
    return None if e is None else to_e, None if v is None else to_v, *rest


def _triple_backward(ctx: Any, *_: Tensor | None) -> NoReturn:
    raise RuntimeError(
        "edmfast.ops.potential has derivatives up to the second order, a third one was requested"
    )


def _assemble_backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None
    backward = torch.ops.edmfast.potential_assemble_backward
    slopes: tuple[Tensor, ...] = backward(grad, *ctx.saved_tensors)
    return slopes


def _assemble_double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor, ...]:
    grad, *tensors, coefficients = ctx.saved_tensors
    *slopes, c = (
        _or_zeros(cotangent, like)
        for cotangent, like in zip(cotangents, (*tensors, coefficients), strict=True)
    )
    assemble = torch.ops.edmfast.potential_assemble
    to_grad = assemble(*slopes, coefficients) + assemble(*tensors, c)
    # the backward uses grad in <grad, t_i>, with cotangent c_i, and in coefficient_i grad, with cotangent slope_i
    return to_grad, *torch.ops.edmfast.potential_assemble_backward(grad, *slopes, c)


def _save_nothing(ctx: Any, inputs: tuple[Tensor | None, ...], output: object) -> None:
    # the third derivative raises, so it needs nothing
    pass


for _name, _derivative, _context in (
    ("potential", _backward, _save_all),
    ("potential_backward", _double_backward, _save_all),
    ("potential_double_backward", _triple_backward, _save_nothing),
    ("potential_assemble", _assemble_backward, _save_all),
    ("potential_assemble_backward", _assemble_double_backward, _save_all),
):
    _extension.differentiate(_name, _derivative, _context)

# Longer rows keep their sums in float64. In float32 those of 1024 elements err by about 1e-4 nats.
_SHORT = 1024


def potential(h: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return (E [B] in nats, weight y [B, *shape]): E = |y|²/2 - weight <h, y>, and the cotangent of h in -E.

    h, y: [B, *shape], of one dtype: float16 or bfloat16 (both computed in float32), float32 or float64.
    weight: [B] of that dtype; for the energy of a diffusion model it is sigma_data/sigma.

    Sums are taken in float64. The bits of a row depend neither on the other rows nor on the number of threads.
    In a compiled training step on the CPU, rows of up to 1024 elements are summed in their own dtype instead, as
    plain torch sums them, because the compiler then fuses all orders of derivative.

    Derivatives: first and second order in all three. A third derivative and forward mode raise RuntimeError.
    Raises TypeError for dtypes, ValueError for shapes.
    Source: Thornton et al. 2025, arXiv 2502.12786.
    """
    _check("potential", (h, y), (weight,))
    if weight.shape != y.shape[:1]:
        raise ValueError(f"weight must be [{len(y)}], got {tuple(weight.shape)}")
    # half precisions are computed in float32 and rounded once
    rows = _rows(h), _rows(y), widened(weight)
    if is_fused(*rows) and rows[1].shape[1] <= _SHORT:
        energy, cotangent = reference.fused_potential(*rows)
    else:
        energy, cotangent = torch.ops.edmfast.potential(*rows)
    if y.dtype in HALVES:
        energy, cotangent = energy.to(y.dtype), cotangent.to(y.dtype)
    return energy, cotangent.view(y.shape)


def potential_assemble(h: Tensor, pullback: Tensor, y: Tensor, coefficients: Tensor) -> Tensor:
    """Return coefficients[:, 0] h + coefficients[:, 1] pullback + coefficients[:, 2] y, like y, in one pass.

    h, pullback, y: [B, *shape]; coefficients: [B, 3]; all of one dtype, as in `potential`. With
    pullback = J_hᵀ (w y), the coefficients (c_in w, c_in, -c_in) give a score, in units of 1/x.

    Derivatives: all orders in all four. Forward mode raises RuntimeError.
    Raises TypeError for dtypes, ValueError for shapes.
    Source: Thornton et al. 2025, arXiv 2502.12786.
    """
    _check("potential_assemble", (h, pullback, y), (coefficients,))
    if coefficients.shape != (y.shape[0], 3):
        raise ValueError(f"coefficients must be [{len(y)}, 3], got {tuple(coefficients.shape)}")
    rows = _rows(h), _rows(pullback), _rows(y), widened(coefficients)
    operator = torch.ops.edmfast.potential_assemble
    out: Tensor = (reference.potential_assemble if is_fused(*rows) else operator)(*rows)
    return out.to(y.dtype).view(y.shape)


def potential_field(
    h: Tensor, pullback: Tensor, y: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (E [B] in nats, c_0 h + c_1 pullback + c_2 y, like y), with E = |y|²/2 - w <h, y>, in one pass.

    h, pullback, y: [B, *shape], of one dtype, as in `potential`. numbers: (w, c_0, c_1, c_2) of that dtype, [B, 4]
    or, for all rows, [1, 4]. With pullback = J_hᵀ (w y), the coefficients (c_in w, c_in, -c_in) give a score, in
    units of 1/x. Sums are taken in float64.

    There is no derivative: inputs that require grad raise under grad mode, and inputs with a tangent always do.
    Raises TypeError for dtypes, ValueError for shapes, RuntimeError for requested derivatives.
    Source: Thornton et al. 2025, arXiv 2502.12786.
    """
    _check("potential_field", (h, pullback, y), (numbers,))
    if tuple(numbers.shape) not in ((y.shape[0], 4), (1, 4)):
        raise ValueError(f"numbers must be [{len(y)}, 4] or [1, 4], got {tuple(numbers.shape)}")
    refuse_derivatives("potential_field", h, pullback, y, numbers)
    energy, field = torch.ops.edmfast.potential_field(
        _rows(h), _rows(pullback), _rows(y), widened(numbers)
    )
    if y.dtype in HALVES:
        energy, field = energy.to(y.dtype), field.to(y.dtype)
    return energy, field.view(y.shape)


def _rows(states: Tensor) -> Tensor:
    """Return states as rows [B, d] in the dtype in which they are computed."""
    flat = states if states.dim() == 2 else states.flatten(1)
    return widened(flat)


def _check(name: str, states: tuple[Tensor, ...], numbers: tuple[Tensor, ...]) -> None:
    refuse_transforms(name, *states, *numbers)
    first = states[0]
    shape, dtype = first.shape, first.dtype
    if dtype not in DTYPES or any(tensor.dtype is not dtype for tensor in (*states, *numbers)):
        dtypes = {tensor.dtype for tensor in (*states, *numbers)}
        names = sorted(str(dtype) for dtype in dtypes)
        raise TypeError(f"all must share one of float16, bfloat16, float32, float64, got {names}")
    if len(shape) < 2 or any(tensor.shape != shape for tensor in states):
        shapes = [tuple(tensor.shape) for tensor in states]
        raise ValueError(f"states must be [B, *shape] of one shape, got {shapes}")
