"""The CUDA kernels, compiled for sm_90 without a GPU, keep within their budgets of machine code."""

from __future__ import annotations

import pytest

from bench.gpu import cuda_kernels
from bench.gpu.budgets import WORKS, accounts
from bench.gpu.usage import cuobjdump

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows():
    nvcc, tool = cuda_kernels.compiler(), cuobjdump()
    if nvcc is None:
        pytest.skip("no nvcc, neither in CUDA_HOME nor on PATH")
    if tool is None:
        pytest.skip("no cuobjdump, neither beside nvcc nor from Triton")
    return {row.name: row for row in accounts(nvcc, tool)}


@pytest.mark.parametrize("name", WORKS)
def test_budget(rows, name):
    row, budget = rows[name], WORKS[name].budget
    assert row.usage.spilled == 0
    assert row.instructions <= budget.instructions
    assert row.waits <= budget.waits
    assert row.barriers <= budget.barriers
    assert row.blocks >= budget.blocks
    # a budget that nothing comes near would notice no loss
    assert row.instructions >= 0.9 * budget.instructions, "lower the budget"
