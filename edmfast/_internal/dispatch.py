"""Decisions about dispatch: may edmfast's operators run here, and may one of them replace a module?"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules import module as global_hooks

from edmfast._internal.derivatives import is_transformed


def operators_work() -> bool:
    """Return whether operators can be used here, outside of torch's tracer, of the transforms and of forward mode.

    The tracer cannot fuse operators with the code around them, and transforms such as torch.func.grad and forward
    mode cannot differentiate them.
    """
    return not torch.compiler.is_dynamo_compiling() and not is_transformed()


def as_written(module: nn.Module) -> bool:
    """Return whether calling a module runs the forward of its class and nothing else.

    Hooks of the module, global hooks, and another forward in its place prevent that, and a replacement of the
    module would leave them out.
    """
    return not (
        global_hooks._global_forward_hooks
        or global_hooks._global_forward_pre_hooks
        or global_hooks._global_backward_hooks
        or global_hooks._global_backward_pre_hooks
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )
