"""The libraries that were built are live: one that does not load would silently give way to slower kernels."""

from __future__ import annotations

import pytest
import torch

import edmfast
from bench.gpu import sanitize

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_kernels_are_live():
    info = edmfast.info()
    kernels = info["kernels"]
    assert not kernels["triton"].startswith("off")
    if info["built"].startswith("C++"):
        assert not kernels["cpu"].startswith("off")
    for name in ("attention", "group_norm_silu", "mlp_potential", "potential"):
        assert name in kernels["triton"], name


def test_cuda_kernels_are_live():
    info = edmfast.info()
    if "and CUDA" not in info["built"]:
        pytest.skip(f"CUDA kernels not built: {info['built']}")
    assert not sanitize.without_cuda_kernel(), info["kernels"]
