"""Whether edmfast's operators can do their work where the program is now, and stand in for a module."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules import module as everywhere

from edmfast._internal.derivatives import is_transformed


def operators_work() -> bool:
    """Not where torch's own tracer, a transform such as torch.func.grad or forward mode is at work: the
    first cannot fuse operators with what is around them, the others cannot differentiate them."""
    return not torch.compiler.is_dynamo_compiling() and not is_transformed()


def as_written(module: nn.Module) -> bool:
    """Whether calling a module runs its class's forward and nothing else: no hooks, its own or those of all
    modules, and no other forward put in its place. What stands in for the module would leave those out."""
    return not (
        everywhere._global_forward_hooks
        or everywhere._global_forward_pre_hooks
        or everywhere._global_backward_hooks
        or everywhere._global_backward_pre_hooks
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )
