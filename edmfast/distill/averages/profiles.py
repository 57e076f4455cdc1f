"""The power-function averages that a training run keeps beside its exponential one.

A run with ema_profiles=(0.05, 0.10) keeps two of them, and writes both now and then as snapshots, from which
`post_hoc_ema` makes averages of other widths. Source: Karras et al. 2024, arXiv 2312.02696, section 3.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from edmfast.distill.averages.power_function import gamma_of, weight_at
from edmfast.distill.checkpoint import copy_group

Groups = dict[str, dict[str, Tensor]]


class Profiles:
    """Power-function averages of some parameters, one list of tensors for each width.

    Averages are float32 at least, because small shares of new weights would be lost in half precision.

    Args:
        parameters: the parameters, whose values at construction do not count in any average.
        widths: sigma_rel of each average.
    """

    def __init__(self, parameters: Sequence[Tensor], widths: Sequence[float]) -> None:
        self.parameters, self.widths = parameters, (*widths,)
        self.gammas = [gamma_of(width, "ema_profiles") for width in widths]
        self.averages = [[_wide(p.detach()).clone() for p in parameters] for _ in widths]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the present values of the parameters, which are those after step 1, 2, ...."""
        if not self.widths:
            return
        values = [_wide(parameter.detach()) for parameter in self.parameters]
        for gamma, average in zip(self.gammas, self.averages, strict=True):
            torch._foreach_lerp_(average, values, weight_at(gamma, step))

    def groups(self, names: Sequence[str]) -> Groups:
        """Return the averages as groups of a checkpoint. names: those of the parameters."""
        return {
            f"profile{index}": dict(zip(names, average, strict=True))
            for index, average in enumerate(self.averages)
        }

    def load(self, path: str | os.PathLike[str], groups: Groups, names: Sequence[str]) -> None:
        """Copy the averages from the groups of a checkpoint. Raises ValueError where one is missing."""
        for index, average in enumerate(self.averages):
            copy_group(path, groups, f"profile{index}", zip(names, average, strict=True))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
