"""Provide fixtures of the operator tests: seeds, the compiled kernels, and memory that holds NaN."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from edmfast import _extension


@pytest.fixture
def compiled() -> None:
    """Skip the test, with the reason, where the compiled CPU kernels are not live."""
    status = _extension.kernel_status()["cpu"]
    if status.startswith("off"):
        pytest.skip(f"compiled CPU kernels {status}")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Make allocations hold NaN, so that an unwritten output shows."""
    previous = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = previous
