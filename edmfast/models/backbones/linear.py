"""A linear layer whose result for a row has the same bits wherever the row lies in the batch."""

from __future__ import annotations

import torch
from torch import nn

from edmfast._internal.batch_invariant import batch_invariant_linear
from edmfast.models.level_table import of_level


class Linear(nn.Linear):
    """A torch.nn.Linear, with the same parameters, whose product is `batch_invariant_linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., out_features] for x [..., in_features]."""
        # a row that depends on the noise level alone, such as an embedding, gives one for all levels of a run
        if x.shape[0] == 1 and (row := self._of_level(x)) is not None:
            return row
        return batch_invariant_linear(x, self.weight, self.bias)

    def _of_level(self, x: torch.Tensor) -> torch.Tensor | None:
        weight, bias = self.weight, self.bias
        sources = (weight,) if bias is None else (weight, bias)
        name = ("linear", id(self))
        found = of_level(
            (x,), name, sources, lambda rows: (batch_invariant_linear(rows, weight, bias),)
        )
        return None if found is None else found[0]
