"""Triton's linear combinations have the bits of the plain reference."""

from __future__ import annotations

import pytest
import torch

from edmfast.ops.linear_combination import reference

combine = pytest.importorskip("edmfast.ops.linear_combination.triton_ops", exc_type=ImportError)

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture
def equal(request):
    """Return a check of equal bits, which allows a unit in the last place where the interpreter truncates."""

    def check(ours, truth):
        assert ours.dtype == truth.dtype
        if truth.dtype == torch.bfloat16 and "interpreter" in request.node.callspec.id:
            torch.testing.assert_close(ours, truth, rtol=2**-7, atol=0)
        else:
            assert torch.equal(ours, truth)

    return check


def inputs(generator, shape, count, dtype):
    tensors = torch.randn(count, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return list(tensors), torch.randn(count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 1030)], ids=str)
@pytest.mark.parametrize("count", [1, 3, 8])
def test_same_bits_of_terms(run, equal, generator, shape, count, dtype):
    arguments = *inputs(generator, shape, count, dtype), None, None, None, 0, 0
    ours = run(combine.linear_combination, *arguments)
    equal(ours, reference.linear_combination(*arguments))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (300, 5), (3, 1027)], ids=str)
@pytest.mark.parametrize("each", [False, True])
def test_same_bits_of_noise(run, equal, generator, shape, each, dtype):
    seeds = torch.arange(shape[0] if each else 1) * 2**40 - 5
    nodes = torch.tensor([0, 2**60 - 1, 2**32 * 77 + 2**31])
    weights = torch.randn(3, generator=generator, dtype=torch.float64)
    first = 0 if each else 2**32 - 300
    arguments = *inputs(generator, shape, 2, dtype), seeds, nodes, weights, 15, first
    ours = run(combine.linear_combination, *arguments)
    equal(ours, reference.linear_combination(*arguments))


def test_layouts(run, generator):
    (x, y), numbers = inputs(generator, (2, 3, 4, 5), 2, torch.float32)
    last = [t.contiguous(memory_format=torch.channels_last) for t in (x, y)]
    for pair in (last, [x, last[1]], [x[:, ::2], y[:, ::2]]):
        arguments = pair, numbers, None, None, None, 0, 0
        ours, wanted = (
            run(combine.linear_combination, *arguments),
            reference.linear_combination(*arguments),
        )
        assert torch.equal(ours, wanted)
        assert ours.stride() == wanted.stride()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)], ids=str)
def test_empty(run, shape):
    noise = (
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64),
        torch.ones(1).double(),
    )
    out = run(
        combine.linear_combination, [torch.empty(shape)], torch.ones(1).double(), *noise, 0, 0
    )
    assert out.shape == shape
