"""A linear layer whose result for a row has the same bits wherever the row lies in the batch.

CPU matrix libraries sum a row in another order where its start is not aligned to 16 bytes, so
with rows of 17 numbers the bits would depend on a sample's place. Rows are therefore padded with
zeros to a multiple of four numbers, on both sides of the matrix, as the backward pass multiplies
by it from the other. Rows of one or two numbers have no second order of summation.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """x [..., in_features] -> [..., out_features], parameters as in torch.nn.Linear."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        entry, exit_ = missing(self.in_features), missing(self.out_features)
        if x.device.type != "cpu" or not (entry or exit_):
            return super().forward(x)
        weight = F.pad(self.weight, (0, entry, 0, exit_))
        bias = None if self.bias is None else F.pad(self.bias, (0, exit_))
        return F.linear(F.pad(x, (0, entry)), weight, bias)[..., : self.out_features]


def missing(features: int) -> int:
    """Zeros that rows of so many numbers are padded with."""
    return 0 if features <= 2 else -features % 4
