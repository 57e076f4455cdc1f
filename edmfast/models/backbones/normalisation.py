"""Group norms of backbones, which `edmfast.ops` computes in one pass together with the silu that follows.

The operator has derivatives to second order and keeps only its input for them. Where operators do not work
(`operators_work`), torch's formulas are used. Where the layer is a subclass, is replaced or has hooks, the layer
itself is called. The parameters stay those of torch's modules.
"""

from __future__ import annotations

import torch
from torch import nn

from edmfast import ops
from edmfast._internal.dispatch import as_written, operators_work
from edmfast.models.backbones import activation


def group_norm(
    x: torch.Tensor,
    layer: nn.GroupNorm,
    *,
    silu: bool = False,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return z = layer(x) (1 + scale) + shift, or silu(z) with silu=True, for x [B, C, *spatial].

    scale, shift: [B, C] or [1, C], by default 0. The operator computes in the dtype of x even under autocast,
    because the convolution or matrix product that follows would round float32 to that dtype anyway.
    """
    if type(layer) is nn.GroupNorm and as_written(layer) and operators_work():
        # the operator includes silu, which saves one pass over the activations
        numbers = layer.num_groups, layer.weight, layer.bias
        return ops.group_norm(x, *numbers, scale=scale, shift=shift, eps=layer.eps, silu=silu)
    normal: torch.Tensor = layer(x)
    if scale is not None:
        normal = normal * (1 + _spread(scale, x))
    if shift is not None:
        normal = normal + _spread(shift, x)
    return activation.silu(normal) if silu else normal


def _spread(numbers: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return numbers [R, C] as [R, C, 1, …], so that they broadcast over the spatial dimensions of x."""
    return numbers[(..., *[None] * (x.dim() - 2))]
