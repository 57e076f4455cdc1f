"""Triton normals have the bits of the plain reference."""

from __future__ import annotations

import pytest
import torch

from edmfast.ops import rng_state
from edmfast.ops.noise import reference

noise = pytest.importorskip("edmfast.ops.noise.triton_ops", exc_type=ImportError)


def bits(x):
    return x.view(torch.int32 if x.dtype == torch.float32 else torch.int64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 2), (3, 5, 3), (2, 300, 5), (1, 3, 1027), (2, 17, 64)], ids=str
)
def test_same_bits(run, shape, dtype):
    inputs = torch.empty(shape, dtype=dtype), rng_state(2**63 + 12345, 7), 3, 5, 11
    assert torch.equal(bits(run(noise.noise, *inputs)), bits(reference.noise(*inputs)))


@pytest.mark.parametrize(
    "counters", [(0, 0, 0), (15, 2**28 - 2, 2**32 - 1), (1, 1, 1), (2, 2**31, 2**31 - 1)]
)
@pytest.mark.parametrize(("seed", "step"), [(0, 0), (-1, 2**32 - 1), (-(2**63), 1), (16, -1)])
def test_same_bits_at_the_ends_of_counters(run, counters, seed, step):
    # rng_state refuses a step of -1, but kernels that get one must still agree
    rng = torch.tensor([seed, step])
    inputs = torch.empty(3, 4, 5), rng, *counters
    assert torch.equal(bits(run(noise.noise, *inputs)), bits(reference.noise(*inputs)))


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0)])
def test_empty(run, shape):
    assert run(noise.noise, torch.empty(shape), rng_state(0, 0), 0, 0, 0).shape == shape


def test_any_strides(run):
    inputs = torch.empty(2, 8, 3).transpose(1, 2), rng_state(1, 2), 0, 0, 0
    out = run(noise.noise, *inputs)
    assert out.is_contiguous()
    assert torch.equal(bits(out), bits(reference.noise(*inputs)))
