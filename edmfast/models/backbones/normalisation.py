"""Group norms of backbones: by `edmfast.ops`, in one pass with the silu after them, or by torch's formulas.

The operator has two orders of derivative and keeps nothing but its input for them; torch's formulas stand in
where operators do not work (`operators_work`), and the layer itself is called where it is not torch's as
written: derived, replaced, or with hooks. Parameters stay those of torch's modules.
"""

from __future__ import annotations

import torch
from torch import nn

from edmfast import ops
from edmfast._internal.dispatch import as_written, operators_work
from edmfast.models.backbones import activation


def group_norm(x: torch.Tensor, layer: nn.GroupNorm, *, silu: bool = False) -> torch.Tensor:
    """layer(x), through silu where asked, of x [B, C, *spatial]. By the operator of x's dtype, under autocast
    too: the convolution or matrix product that follows would round torch's float32 to it anyway."""
    if type(layer) is nn.GroupNorm and as_written(layer) and operators_work():
        numbers = layer.num_groups, layer.weight, layer.bias
        return ops.group_norm(x, *numbers, eps=layer.eps, silu=silu)
    normal = layer(x)
    return activation.silu(normal) if silu else normal
