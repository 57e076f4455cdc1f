"""The exponent A of a target for a run: one number, or one for every population."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edmfast.targets.exponents import Exponent


def population_exponents(target: Any, populations: int, device: torch.device) -> Exponent:
    """Return A as a float, or as float64 [P] on the device.

    Raises ValueError unless 0 < A < inf, and where the target has exponents for another number of populations.
    """
    exponent = getattr(target, "exponent", 1.0)
    if isinstance(exponent, Tensor) and exponent.dim() > 0:
        if exponent.shape != (populations,):
            raise ValueError(
                f"the target has {tuple(exponent.shape)} exponents for {populations} populations: "
                "give one for each of them"
            )
        if not bool(((exponent > 0) & exponent.isfinite()).all()):
            raise ValueError(
                f"every exponent A must be positive and finite, got {exponent.tolist()}"
            )
        return exponent.double().to(device)
    # a tensor without dimensions is read here, once, and never inside the run
    number = float(exponent)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"the target's exponent A must be positive and finite, got {number}")
    return number


class ExponentTable:
    """The exponents a_i of M models as one tensor for every device, made once for a run."""

    def __init__(self) -> None:
        self._tables: dict[tuple[int, torch.device], Tensor] = {}

    def prepare(
        self, exponents: Sequence[Exponent], populations: int, device: torch.device
    ) -> Tensor:
        """Return a_i as float64 [P, M]. exponents: M of them, each a float or float64 [P]."""
        key = populations, device
        if key not in self._tables:
            ones = torch.ones(populations, dtype=torch.float64, device=device)
            self._tables[key] = torch.stack([ones * a for a in exponents], 1)
        return self._tables[key]
