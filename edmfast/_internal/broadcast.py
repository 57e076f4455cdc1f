"""Broadcasting of numbers against states: one number for each row, population or run of rows.

The functions take states [B, *shape] or [P, N, *shape]; a number without dimensions needs no broadcasting and is
returned as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unsqueeze_like(numbers: Tensor, states: Tensor) -> Tensor:
    """Return numbers [*leading] as [*leading, 1, ...], with as many dimensions as states [*leading, *shape]."""
    return numbers.reshape(*numbers.shape, *[1] * (states.dim() - numbers.dim()))


def row_numbers(numbers: float | Tensor, states: Tensor) -> float | Tensor:
    """Return numbers [K] as [B], one for each row of states [B, *shape], in their dtype and on their device.

    Each number serves B/K consecutive rows. A float or a tensor [] is returned as it is.
    Raises ValueError unless K divides B.
    """
    if not isinstance(numbers, Tensor) or numbers.dim() == 0:
        return numbers
    count, batch = len(numbers), states.shape[0]
    if count == batch == 0:
        return numbers.to(device=states.device, dtype=states.dtype)
    if count == 0 or batch % count:
        raise ValueError(f"{count} numbers do not divide a batch of {batch} rows")
    repeated = numbers[:, None].expand(count, batch // count).reshape(batch)
    return repeated.to(device=states.device, dtype=states.dtype)


def row_factors(numbers: float | Tensor, states: Tensor) -> float | Tensor:
    """Return numbers [K] as factors [B, 1, ...] of states [B, *shape]; see `row_numbers`."""
    rows = row_numbers(numbers, states)
    if not isinstance(rows, Tensor) or rows.dim() == 0:
        return rows
    return unsqueeze_like(rows, states)


def population_factors(
    numbers: float | Tensor, states: Tensor, dtype: torch.dtype | None = None
) -> float | Tensor:
    """Return numbers [P] as factors [P, 1, ...] of states [P, N, *shape], on their device.

    dtype: of the factors, None for that of the numbers. A float is returned as it is, a tensor [] without other
    dimensions.
    """
    if not isinstance(numbers, Tensor):
        return numbers
    if numbers.dim() > 0:
        numbers = unsqueeze_like(numbers.to(states.device), states)
    return numbers if dtype is None else numbers.to(dtype)
