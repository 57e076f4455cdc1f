"""Provide fixtures for the tests of all folders."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several processes of pytest-xdist, and the processes that it starts, its share of the threads.

    More threads than cores wait for each other, and then two processes take longer than one.
    """
    if hasattr(config, "workerinput"):
        threads = max(1, torch.get_num_threads() // config.workerinput["workercount"])
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)


@pytest.fixture
def with_threads():
    """Return a context manager that sets the number of torch's threads and restores it."""

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
    """Return a context manager in which this thread treats subnormal numbers as zeros."""

    @contextlib.contextmanager
    def use() -> Iterator[None]:
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor does not flush subnormal numbers")
        try:
            yield
        finally:
            torch.set_flush_denormal(False)

    return use


@pytest.fixture(autouse=True, scope="session")
def interruptible_session() -> None:
    """Install Python's handler of Ctrl-C, which a process lacks that a shell has started in the background.

    Runs warn where SIGINT is ignored, and some tests count warnings or send the signal.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
