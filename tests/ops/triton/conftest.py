"""Run Triton kernels by their interpreter in a process of its own, and on the GPU where there is one.

The process is separate because Triton decides at import, for the whole process, whether to interpret.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    pytest.importorskip("triton")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        # this starts the process
        reason = pool.submit(_why_not_interpreted).result(timeout=120)
        patch.undo()
        if reason:
            pytest.skip(reason)
        yield pool


def _why_not_interpreted() -> str:
    # Triton must not be imported in the process of the tests, where it does not interpret
    from tests.ops.triton.interpreter_probe import why_not

    return why_not()


def _moved(value: Any, device: str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(entry, device) for entry in value)
    return value


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Call a function that launches Triton kernels, with CPU tensors, and return CPU tensors."""
    pytest.importorskip("triton")
    if request.param == "interpreter":
        pool = request.getfixturevalue("interpreter")
        return lambda function, *args: pool.submit(function, *args).result(timeout=120)
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return lambda function, *args: _moved(function(*_moved(args, "cuda")), "cpu")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)
