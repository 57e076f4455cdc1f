"""Host side: the device that a Triton kernel is launched on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor


def on_device_of(tensor: Tensor) -> AbstractContextManager[None]:
    """Return a context that makes the GPU of a tensor the current one; on the CPU it does nothing."""
    context: Callable[[Tensor], AbstractContextManager[None]] = torch.cuda.device_of
    return context(tensor)
