"""Host side of the inner-product potential and its derivatives on a GPU by Triton: one launch each."""

from __future__ import annotations

from typing import Any

import triton
from torch import Tensor

from edmfast.ops._shared.triton_device import on_device_of
from edmfast.ops.potential.triton_kernels import (
    WARPS,
    assemble_backward_kernel,
    assemble_kernel,
    backward_kernel,
    double_backward_kernel,
    field_kernel,
    potential_kernel,
    tile,
)


def _launch(
    kernel: Any,
    inputs: tuple[Tensor | None, ...],
    outputs: tuple[Tensor, ...],
    **constants: int,
) -> None:
    """Launch a kernel on contiguous inputs, the last but one of which are the states y [B, d]."""
    y = inputs[-2]
    assert y is not None
    rows, elements = y.shape
    if rows == 0:
        return
    operands = [None if tensor is None else tensor.contiguous() for tensor in inputs]
    tiles = tile(rows, elements)
    with on_device_of(y):
        kernel[(triton.cdiv(rows, tiles["ROWS"]),)](
            *operands,
            *outputs,
            rows,
            elements,
            **constants,
            **tiles,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )


def _empty(*like: Tensor) -> tuple[Tensor, ...]:
    """Return contiguous empty tensors of the shapes of others."""
    return tuple(tensor.new_empty(tensor.shape) for tensor in like)


def potential(h: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """See `edmfast.ops.potential.reference.potential`; all are float32 or float64."""
    outputs = _empty(weight, y)
    _launch(potential_kernel, (h, y, weight), outputs)
    return outputs


def potential_backward(
    grad_energy: Tensor | None, grad_cotangent: Tensor | None, h: Tensor, y: Tensor, weight: Tensor
) -> tuple[Tensor, ...]:
    """See `edmfast.ops.potential.reference.potential_backward`."""
    outputs = _empty(h, y, weight)
    _launch(backward_kernel, (grad_energy, grad_cotangent, h, y, weight), outputs)
    return outputs


def potential_double_backward(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    grad_energy: Tensor | None,
    grad_cotangent: Tensor | None,
    h: Tensor,
    y: Tensor,
    weight: Tensor,
) -> tuple[Tensor, ...]:
    """See `edmfast.ops.potential.reference.potential_double_backward`."""
    outputs = _empty(weight, y, h, y, weight)
    inputs = a, b, c, grad_energy, grad_cotangent, h, y, weight
    _launch(double_backward_kernel, inputs, outputs)
    return outputs


def potential_assemble(h: Tensor, pullback: Tensor, y: Tensor, coefficients: Tensor) -> Tensor:
    """See `edmfast.ops.potential.reference.potential_assemble`."""
    outputs = _empty(y)
    _launch(assemble_kernel, (h, pullback, y, coefficients), outputs)
    return outputs[0]


def potential_field(h: Tensor, pullback: Tensor, y: Tensor, numbers: Tensor) -> tuple[Tensor, ...]:
    """See `edmfast.ops.potential.reference.potential_field`."""
    outputs = y.new_empty(len(y)), y.new_empty(y.shape)
    stride = 0 if len(numbers) == 1 else 4
    _launch(field_kernel, (h, pullback, y, numbers), outputs, STRIDE=stride)
    return outputs


def potential_assemble_backward(
    grad: Tensor, h: Tensor, pullback: Tensor, y: Tensor, coefficients: Tensor
) -> tuple[Tensor, ...]:
    """See `edmfast.ops.potential.reference.potential_assemble_backward`."""
    outputs = _empty(h, pullback, y, coefficients)
    _launch(assemble_backward_kernel, (grad, h, pullback, y, coefficients), outputs)
    return outputs
