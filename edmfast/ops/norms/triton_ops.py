"""Host side of norms with silu and their two derivatives on a GPU by Triton, on any dense layout.

For N C S numbers of k bytes each, memory moves 2 k N C S bytes in forward (x; y), 3 k N C S in backward (grad, x;
to_x) and 5 k N C S in double backward (to_x, grad, x; to_grad, second), where programs hold whole groups. A group
that has more than 8192 numbers (in double backward 4096, except for the shapes of `triton_launch`; a quarter of
these for float64) when its sizes are rounded up to powers of two is read twice, the second time from the cache as
far as it reaches: 3, 5 and 8 k N C S. Partial sums of the gradients of scale and shift, and of parts of groups,
add a few percent.

There are no atomics: the shapes alone fix the order of sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.ops.norms import reference
from edmfast.ops.norms.triton_backward import backward_kernel
from edmfast.ops.norms.triton_double_backward import SUMS, double_backward_kernel
from edmfast.ops.norms.triton_forward import forward_kernel
from edmfast.ops.norms.triton_launch import dense, launch, matched, summed, weight_sums


def group_norm_silu(
    x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float, centred: bool, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See `edmfast.ops.norms.reference.group_norm_silu`; y has the layout of x: channels slowest or fastest."""
    # there is nothing to launch for an empty batch, and the reference returns empty results
    if x.numel() == 0:
        return reference.group_norm_silu(x, scale, shift, groups, eps, centred, silu)
    x, scale, shift = dense(x), scale.contiguous(), shift.contiguous()
    y = torch.empty_like(x)
    # scale has the dtype of the arithmetic, in which statistics are kept
    mean, rstd = (scale.new_empty(x.shape[0], groups) for _ in range(2))
    tensors = x, scale, shift, y, mean, rstd
    launch(forward_kernel, tensors, x, scale, groups, centred, silu, 3, eps)
    return y, mean, rstd


def group_norm_silu_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    rstd: Tensor,
    centred: bool,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `edmfast.ops.norms.reference.group_norm_silu_backward`; to_x has the strides of x."""
    if x.numel() == 0:
        return reference.group_norm_silu_backward(grad, x, scale, shift, mean, rstd, centred, silu)
    x, groups = dense(x), mean.shape[1]
    scale, shift, mean, rstd = (tensor.contiguous() for tensor in (scale, shift, mean, rstd))
    to_x = torch.empty_like(x)
    weights = weight_sums(scale, x, groups, "backward")
    # the kernel gets one set of strides, so grad is copied where its layout is another
    tensors = matched(grad, x), x, scale, shift, mean, rstd, to_x, *weights
    launch(backward_kernel, tensors, x, scale, groups, centred, silu, 2)
    return to_x, summed(weights[0]), summed(weights[1])


def group_norm_silu_double_backward(
    to_x: Tensor,
    to_scale: Tensor | None,
    to_shift: Tensor | None,
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    rstd: Tensor,
    centred: bool,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `edmfast.ops.norms.reference.group_norm_silu_double_backward`.

    The cotangents of grad and x have the strides of x.
    """
    if x.numel() == 0:
        return reference.group_norm_silu_double_backward(
            to_x, to_scale, to_shift, grad, x, scale, shift, mean, rstd, centred, silu
        )
    x, groups = dense(x), mean.shape[1]
    scale, shift, mean, rstd = (tensor.contiguous() for tensor in (scale, shift, mean, rstd))
    b, c = (
        None if cotangent is None else cotangent.contiguous() for cotangent in (to_scale, to_shift)
    )
    v, grad = matched(to_x, x), matched(grad, x)
    to_grad, second = torch.empty_like(grad), torch.empty_like(x)
    weights = weight_sums(scale, x, groups, "double_backward")
    tensors = v, b, c, grad, x, scale, shift, mean, rstd, to_grad, second, *weights
    launch(double_backward_kernel, tensors, x, scale, groups, centred, silu, SUMS.value)
    return to_grad, second, summed(weights[0]), summed(weights[1])
