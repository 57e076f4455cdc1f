"""A linear layer whose result for a row has the same bits wherever the row lies in the batch."""

from __future__ import annotations

import torch
from torch import nn

from edmfast._internal.batch_invariant import batch_invariant_linear


class Linear(nn.Linear):
    """A torch.nn.Linear, with the same parameters, whose product is `batch_invariant_linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., out_features] for x [..., in_features]."""
        return batch_invariant_linear(x, self.weight, self.bias)
