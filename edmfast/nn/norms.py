"""Norms with torch's parameters, whose first and second derivatives are one pass each.

Values and derivatives are those of torch's layers up to rounding, with statistics in float32 or better. Inside
torch.compile, which fuses torch's formulas, and inside torch.func and forward mode, where the operators have no
derivatives, each layer runs torch's own forward. A third derivative of the operators raises RuntimeError.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edmfast import ops
from edmfast._internal.dispatch import operators_work
from edmfast.ops._shared.dtypes import DTYPES, arithmetic


def _runs(x: Tensor, *parameters: Tensor | None) -> bool:
    """Return whether the operators take these tensors here; torch's layers report errors otherwise."""
    if not operators_work() or x.dtype not in DTYPES:
        return False
    widest = arithmetic(x.dtype).itemsize
    return all(
        tensor is None or (tensor.device == x.device and tensor.dtype.itemsize <= widest)
        for tensor in parameters
    )


def _flat(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.flatten()


class LayerNorm(nn.LayerNorm):
    """A layer norm with the arguments, parameters and results of torch.nn.LayerNorm.

    x: [*, *normalized_shape], in float16, bfloat16, float32 or float64; the result is like x. Differentiable to
    second order by `edmfast.ops.layer_norm`.
    Source: Ba et al. 2016, arXiv 1607.06450.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return (x - mean)/sqrt(variance + eps) weight + bias over the last dimensions, like x."""
        rows = _rows(input, self.normalized_shape)
        if rows is None or not _runs(input, self.weight, self.bias):
            return super().forward(input)
        y = ops.layer_norm(rows, _flat(self.weight), _flat(self.bias), eps=self.eps)
        return y.reshape(input.shape)


class RMSNorm(nn.RMSNorm):
    """An RMS norm with the arguments, parameters and results of torch.nn.RMSNorm.

    x: [*, *normalized_shape], in float16, bfloat16, float32 or float64; the result is like x. eps is the machine
    precision of x by default. Differentiable to second order by `edmfast.ops.rms_norm`.
    Source: Zhang & Sennrich 2019, arXiv 1910.07467.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x/sqrt(mean(x²) + eps) weight over the last dimensions, like x."""
        rows = _rows(x, self.normalized_shape)
        # torch returns the wider of two dtypes here, unlike in its layer norm
        same = self.weight is None or self.weight.dtype == x.dtype
        if rows is None or not same or not _runs(x, self.weight):
            return super().forward(x)
        # half precisions are computed in float32, and the precision of that is torch's default
        eps = torch.finfo(arithmetic(x.dtype)).eps if self.eps is None else self.eps
        return ops.rms_norm(rows, _flat(self.weight), eps=eps).reshape(x.shape)


def _rows(x: Tensor, normalized_shape: tuple[int, ...]) -> Tensor | None:
    """Return x as rows [N, C] of the C numbers that share a mean, or None if x does not end with this shape."""
    size = math.prod(normalized_shape)
    lead = x.dim() - len(normalized_shape)
    if size == 0 or lead < 0 or x.shape[lead:] != torch.Size(normalized_shape):
        return None
    return x.reshape(x.shape[:lead].numel(), size)


class GroupNorm(nn.GroupNorm):
    """A group norm with the arguments, parameters and results of torch.nn.GroupNorm.

    x: [B, C, *spatial], in float16, bfloat16, float32 or float64; the result is like x, also in its memory layout.
    Differentiable to second order by `edmfast.ops.group_norm`.
    Source: Wu & He 2018, arXiv 1803.08494.
    """

    _silu = False

    def forward(self, input: Tensor) -> Tensor:
        """Return (x - mean)/sqrt(variance + eps) weight + bias over groups of channels, like x."""
        fits = input.dim() >= 2 and input.shape[1] == self.num_channels
        if not fits or 0 in input.shape[1:] or not _runs(input, self.weight, self.bias):
            y = super().forward(input)
            return F.silu(y) if self._silu else y
        numbers = self.num_groups, self.weight, self.bias
        return ops.group_norm(input, *numbers, eps=self.eps, silu=self._silu)


class GroupNormSiLU(GroupNorm):
    """A group norm followed by SiLU, in one pass: torch.nn.SiLU()(torch.nn.GroupNorm(...)(x)).

    Arguments, parameters and shapes are those of torch.nn.GroupNorm. Differentiable to second order by
    `edmfast.ops.group_norm`.
    Source: Wu & He 2018, arXiv 1803.08494.
    """

    _silu = True
