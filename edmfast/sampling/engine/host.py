"""The question that separates the CPU from accelerators: may a step use numbers of the host?"""

from __future__ import annotations

import torch


def is_host(device: torch.device) -> bool:
    """Return whether tensors of the device lie in the host's memory.

    Only there do coefficients stay Python numbers, are the copies around a model's call left out, and is the end
    of a Brownian increment carried to the next step. Elsewhere a step would wait for copies and comparisons.
    """
    return device.type == "cpu"
