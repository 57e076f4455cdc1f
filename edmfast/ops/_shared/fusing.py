"""The decision whether a compiler on the CPU is shown an operator, or its plain formula."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode


def is_fused(*tensors: Tensor) -> bool:
    """Return whether a call is traced on the CPU together with its derivatives.

    Inductor fuses plain pointwise formulas and row sums of all orders of a training step into few passes, where an
    operator is a pass of its own in each order. A call without derivatives stays the operator, whose bits of a row
    do not depend on the batch; so does every call on a GPU, and every eager call.
    """
    traced = torch.compiler.is_compiling() or get_proxy_mode() is not None
    return (
        traced
        and torch.is_grad_enabled()
        and all(tensor.device.type == "cpu" for tensor in tensors)
        and any(tensor.requires_grad for tensor in tensors)
    )
