"""Whether edmfast's operators can do their work where the program is now."""

from __future__ import annotations

import torch


def operators_work() -> bool:
    """Not where torch's own tracer, a transform such as torch.func.grad or forward mode is at work: the
    first cannot fuse operators with what is around them, the others cannot differentiate them."""
    return (
        not torch.compiler.is_dynamo_compiling()
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch.autograd.forward_ad._current_level < 0
    )
