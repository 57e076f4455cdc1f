"""What was built is what runs: a library that does not load would be replaced by slower kernels in silence."""

from __future__ import annotations

import pytest
import torch

import edmfast
from edmfast import _extension


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_are_live():
    info = edmfast.info()
    kernels = info["kernels"]
    assert not kernels["triton"].startswith("off")
    if info["built"].startswith("C++"):
        assert not kernels["cpu"].startswith("off")
    if "and CUDA" in info["built"]:
        assert not kernels["cuda"].startswith("off")
        for name in (
            "noise",
            "propagate",
            "systematic_resample",
            "weigh_and_resample",
            "score_gram",
        ):
            assert _extension._has_cuda_kernel(name), name
    for name in ("attention", "group_norm_silu", "mlp_potential", "potential"):
        assert name in kernels["triton"], name
