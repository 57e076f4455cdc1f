"""Kernels compute the addresses of tensors of more than 2^31 numbers, and stay inside of every tensor.

The first, a middle and the last program of a launch run in the interpreter, on tensors without memory.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.ops.triton import launching
from tests.ops.triton.sparse_memory import sparse_memory

pytest.importorskip("triton")

ROWS = 2**31 // 1031 + 5_000
"""This many rows of 1031 numbers have more elements than 31 bits can count."""
MANY, LONG = {"particles": ROWS, "elements": 1031}, 2**29 + 5


def addresses(
    operator: str, sizes: dict[str, Any], values: dict[str, float]
) -> tuple[list[str], dict[str, float]]:
    """Launch an operator, and return (addresses outside of tensors, the part of each tensor that was reached)."""
    from edmfast.ops.mlp_potential import triton_ops as mlp

    with sparse_memory(**values) as memory, pytest.MonkeyPatch.context() as patch:
        # programs that take many blocks of rows, and launches that take few rows, would take hours
        patch.setattr(mlp, "_programs", lambda _: 2**31 - 1)
        patch.setattr(mlp, "_PROBE_ROWS", 2**31 - 1)
        getattr(launching, operator)(**sizes)
    return memory.faults, memory.reached()


@pytest.mark.parametrize(
    ("operator", "sizes", "values"),
    [
        ("attention", {"batch": 2**22, "length": 33, "heads": 1, "causal": True}, {}),
        pytest.param(
            "attention",
            {"batch": 1, "length": 33, "heads": 2**20 + 1, "dtype": torch.float32},
            {},
            marks=pytest.mark.slow,
        ),
        ("norms", {"batch": 2**20 + 5, "positions": 33}, {}),
        ("norms", {"batch": 2**20 + 5, "positions": 33, "last": True, "own": True}, {}),
        ("norms", {"batch": 2**13 + 5, "positions": 4096, "last": True}, {}),
        ("potential", {"batch": ROWS, "elements": 1031}, {}),
        (
            "mlp_potential",
            {"batch": 2**27 + 3, "elements": 17, "width": 16, "depth": 1, "rows": True},
            {},
        ),
        ("noise", MANY, {}),
        ("propagate", MANY, {"ancestors": ROWS - 1, "coefficients": 1}),
        ("propagate", {**MANY, "each": True}, {"ancestors": ROWS - 1, "coefficients": 1}),
        ("reversal", MANY, {"levels": 1.5}),
        ("reversal", {"populations": 2**30 + 3, "particles": 2, "elements": 1, "probes": 0}, {}),
        ("systematic_resample", {"populations": 2**20, "particles": 3000}, {}),
        ("weigh", {"populations": 2**20, "particles": 3000}, {"reset": 1, "ancestors": 2999}),
        pytest.param(
            "systematic_resample",
            {"populations": 5, "particles": LONG},
            {"resampled": 1},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_beyond_31_bits(interpreter, operator, sizes, values):
    faults, reached = interpreter.submit(addresses, operator, sizes, values).result(timeout=240)
    assert faults == []
    assert len(reached) > 1
    # scratch memory is not used where nothing is resampled
    parts = [part for name, part in reached.items() if name not in ("slots", "uniform")]
    assert min(parts) == 1.0, reached


def test_the_memory_sees_an_address_outside(interpreter):
    faults, reached = interpreter.submit(
        addresses, "propagate", {"particles": 5}, {"ancestors": 4, "coefficients": 1}
    ).result(timeout=60)
    assert faults == []
    assert reached["x"] == 1.0
    # the address of a narrow tensor as if it were wide
    faults, _ = interpreter.submit(_beyond_the_end).result(timeout=60)
    assert "load of log_weights [16 bytes] at 0 to" in faults[0]


def _beyond_the_end() -> tuple[list[str], dict[str, float]]:
    from edmfast.ops.systematic_resample.triton_ops import small_kernel

    weights, uniform = torch.empty(2, 2, device="meta"), torch.empty(2, device="meta")
    slots = torch.empty(2, 8, dtype=torch.int32, device="meta")
    with sparse_memory() as memory:
        outputs = (uniform.double(),) * 2 + (uniform.bool(), uniform.int())
        small_kernel[(2,)](weights, uniform, 0.5, slots, slots, outputs, 8, 40, LEVELS=3)
    return memory.faults, memory.reached()
