"""A convolution whose double backward costs no more than its backward.

A convolution y = C(x, w), the cotangent of its input T(g, w) and that of its weight W(x, g) are bilinear, and the
derivatives of each are the other two: for cotangents g of y, u of T and q of W,
  C: T(g, w) to x, W(x, g) to w.   T: C(u, w) to g, W(u, g) to w.   W: T(g, q) to x, C(x, q) to g.
Torch has the same formulas, but it computes W(u, g) in a second derivative as a convolution whose kernel is as
large as the image. Here it is the product that also gives the weight's gradient, which is faster on every device.
All orders of derivative exist. Where operators do not work (`operators_work`), torch's convolution is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edmfast._internal.dispatch import operators_work


class Convolution(nn.Conv2d):
    """A torch.nn.Conv2d without groups and dilation, with the same parameters, computed by `convolve`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C', H', W'] for x [B, C, H, W]."""
        assert isinstance(self.padding[0], int)
        return convolve(x, self.weight, self.bias, self.padding[0])


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0) -> Tensor:
    """Return the convolution of x [B, C, H, W] with weight [C', C, k, k], plus bias [C'], with stride 1."""
    if not operators_work():
        return F.conv2d(x, weight, bias, padding=padding)
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        # the tensors saved for derivatives must have the dtype in which autocast computes
        dtype = torch.get_autocast_dtype(kind)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return _call(_Forward, x, weight, bias, padding)


def _call(function: Any, *arguments: Any) -> Tensor:
    """Return the result of an autograd function, to which torch gives no types."""
    result: Tensor = function.apply(*arguments)
    return result


class _Forward(torch.autograd.Function):
    """C(x, w) + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = _call(_ToInput, grad, weight, x, ctx.padding)
        if ctx.needs_input_grad[1]:
            to_weight = _call(_ToWeight, x, grad, weight, ctx.padding)
        if ctx.needs_input_grad[2]:
            to_bias = grad.sum((0, 2, 3))
        return to_x, to_weight, to_bias, None


class _ToInput(torch.autograd.Function):
    """T(g, w), like x. Only the shape of x is read."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, weight: Tensor, x: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(grad, weight)
        ctx.padding = padding
        return _cotangents(grad, x, weight, padding, 0)

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
        grad, weight = ctx.saved_tensors
        to_grad = to_weight = None
        if ctx.needs_input_grad[0]:
            to_grad = _call(_Forward, along, weight, None, ctx.padding)
        if ctx.needs_input_grad[1]:
            to_weight = _call(_ToWeight, along, grad, weight, ctx.padding)
        return to_grad, to_weight, None, None


class _ToWeight(torch.autograd.Function):
    """W(x, g), like w. Only the shape of w is read."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(x, grad)
        ctx.padding = padding
        return _cotangents(grad, x, weight, padding, 1)

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
        x, grad = ctx.saved_tensors
        to_x = to_grad = None
        if ctx.needs_input_grad[0]:
            to_x = _call(_ToInput, grad, along, x, ctx.padding)
        if ctx.needs_input_grad[1]:
            to_grad = _call(_Forward, x, along, None, ctx.padding)
        return to_x, to_grad, None, None


def _cotangents(grad: Tensor, x: Tensor, weight: Tensor, padding: int, which: int) -> Tensor:
    """Return the cotangent of x (which=0) or of weight (which=1) from that of their convolution."""
    mask = [which == 0, which == 1, False]
    sizes: tuple[Any, ...] = (None, [1, 1], [padding, padding], [1, 1], False, [0, 0], 1, mask)
    results = torch.ops.aten.convolution_backward(grad, x, weight, *sizes)
    cotangent: Tensor = results[which]
    return cotangent
