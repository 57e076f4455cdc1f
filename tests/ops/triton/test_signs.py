"""Triton's random signs have the bits of the plain reference."""

from __future__ import annotations

import pytest
import torch

from edmfast.ops import rng_state
from edmfast.ops.signs import reference

signs = pytest.importorskip("edmfast.ops.signs.triton_ops", exc_type=ImportError)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 3), (2, 300, 5), (1, 3, 1027)], ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_same_bits(run, shape, count, dtype):
    inputs = torch.empty(shape, dtype=dtype), rng_state(2**63 + 12345, 7), count, 0, 0, 3, 5, 11
    assert torch.equal(run(signs.signs, *inputs), reference.signs(*inputs))


@pytest.mark.parametrize("count", [1, 2, 4, 7])
@pytest.mark.parametrize("step", [6, 7])
@pytest.mark.parametrize("image", [(1, 3, 4), (3, 5, 7), (3, 16, 16)], ids=str)
def test_same_bits_with_patterns(run, image, step, count):
    elements = image[0] * image[1] * image[2]
    inputs = torch.empty(2, 3, elements), rng_state(5, step), count, *image[1:], 3, 5, 11
    assert torch.equal(run(signs.signs, *inputs), reference.signs(*inputs))


@pytest.mark.parametrize("counters", [(0, 0, 0), (15, 2**28 - 2, 2**32 - 1), (2, 2**31, 2**31 - 1)])
@pytest.mark.parametrize(("seed", "step"), [(0, 0), (-1, 2**32 - 1), (-(2**63), 1)])
def test_same_bits_at_the_ends_of_counters(run, counters, seed, step):
    inputs = torch.empty(3, 4, 6), torch.tensor([seed, step]), 1, 2, 3, *counters
    assert torch.equal(run(signs.signs, *inputs), reference.signs(*inputs))


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0)])
def test_empty(run, shape):
    out = run(signs.signs, torch.empty(shape), rng_state(0, 0), 2, 0, 0, 0, 0, 0)
    assert out.shape == (*shape[:2], 2, shape[2])
