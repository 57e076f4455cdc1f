"""Provide fixtures of the GPU tests. Each test also runs on the CPU at small sizes, without a GPU."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.fixture
def room(device):
    """Skip where fewer than so many GiB are free on the GPU, and free the memory afterwards."""

    def need(gigabytes: float) -> None:
        if device == "cuda" and torch.cuda.mem_get_info()[0] < gigabytes * 2**30:
            pytest.skip(f"needs {gigabytes} GiB of device memory")

    yield need
    if device == "cuda":
        torch.cuda.empty_cache()
