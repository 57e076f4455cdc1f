"""The way of raw samples from the CPU to the device of a run."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device. The host does not wait for a GPU."""
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    # only pinned memory is copied while the host goes on
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)
