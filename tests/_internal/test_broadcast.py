"""Numbers broadcast against states: one for each row, run of rows or population."""

from __future__ import annotations

import pytest
import torch

from edmfast._internal.broadcast import (
    population_factors,
    row_factors,
    row_numbers,
    unsqueeze_like,
)

X = torch.zeros(6, 2, 3)


def test_row_numbers() -> None:
    numbers = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    rows = row_numbers(numbers, X)
    assert isinstance(rows, torch.Tensor)
    assert rows.tolist() == [1, 1, 2, 2, 3, 3]
    assert rows.dtype == X.dtype
    assert row_numbers(2.0, X) == 2.0
    with pytest.raises(ValueError, match="4 numbers do not divide a batch of 6 rows"):
        row_numbers(torch.ones(4), X)


def test_shapes() -> None:
    assert unsqueeze_like(torch.ones(6, 2), X).shape == (6, 2, 1)
    assert unsqueeze_like(torch.ones(0), X[:0]).shape == (0, 1, 1)
    assert row_factors(torch.ones(3), X).shape == (6, 1, 1)
    assert row_factors(torch.ones(0), X[:0]).shape == (0, 1, 1)
    assert population_factors(torch.ones(6, dtype=torch.float64), X).shape == (6, 1, 1)
    scalar = torch.ones(())
    assert row_factors(scalar, X) is scalar
    assert population_factors(0.5, X) == 0.5
