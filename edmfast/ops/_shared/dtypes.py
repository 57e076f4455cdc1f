"""The floating dtypes that operators accept, and the dtype in which each is computed."""

from __future__ import annotations

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
DTYPES = (*HALVES, torch.float32, torch.float64)


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for half precisions, and any other dtype itself."""
    return torch.float32 if dtype in HALVES else dtype


def widened(tensor: Tensor) -> Tensor:
    """Return the tensor in the dtype in which it is computed: half precisions become float32."""
    return tensor.float() if tensor.dtype in HALVES else tensor
