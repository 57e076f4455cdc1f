"""Shared by tests of all rooms."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def with_threads():
    """A context manager that sets the number of threads of torch and puts it back."""

    @contextlib.contextmanager
    def use(count: int) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    return use


@pytest.fixture
def flushing():
    """A context manager in which this thread takes subnormal numbers for zeros."""

    @contextlib.contextmanager
    def use() -> Iterator[None]:
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor does not flush subnormal numbers")
        try:
            yield
        finally:
            torch.set_flush_denormal(False)

    return use
