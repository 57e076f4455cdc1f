"""Operators give the same bits after torch.set_flush_denormal, which turns subnormal numbers into zeros."""

from __future__ import annotations

import pytest
import torch

from edmfast import ops
from edmfast.ops.resample.operator import SCHEMES

# this precedes any flushing, because even a literal of this size is zero on a thread that flushes
SUBNORMAL = {
    torch.float16: 4e-6,
    torch.bfloat16: 1e-39,
    torch.float32: 1e-39,
    torch.float64: 1e-310,
}
SIZES = [(3, 5), (3, 64), (2, 1000), (1, 30_000)]


def weights(populations, particles, scale):
    generator = torch.Generator().manual_seed(populations)
    return torch.randn(populations, particles, dtype=torch.float64, generator=generator) * scale


def equal(results, wanted):
    return [
        torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(results, wanted, strict=True)
    ]


@pytest.mark.parametrize("scale", [1.0, 800.0, SUBNORMAL[torch.float64]])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_resampling_has_the_same_ancestors(scheme, size, scale, flushing):
    inputs = weights(*size, scale)
    rng = ops.rng_state(1, 2)
    wanted = ops.resample(inputs, rng, scheme=scheme)
    with flushing():
        results = ops.resample(inputs, rng, scheme=scheme)
    assert torch.equal(results.ancestors, wanted.ancestors)
    torch.testing.assert_close(results.log_mean, wanted.log_mean)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_weighing_has_the_same_bits(size, flushing, compiled):
    before = ops.Weights.start(*size)
    tiny, usual = weights(*size, SUBNORMAL[torch.float64]), weights(*size, 1.0)
    for ratio, energies in ((tiny, [tiny]), (usual, [usual]), (tiny, [])):
        inputs = before, ratio, energies, energies[::-1], ops.rng_state(1, 2)
        wanted = ops.weigh_and_resample(*inputs)
        with flushing():
            results = ops.weigh_and_resample(*inputs)
        assert all(equal(results, wanted))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("d", [1, 2, 5, 40])
@pytest.mark.parametrize("dtype", SUBNORMAL, ids=str)
def test_states_that_are_subnormal_move_alike(dtype, d, threads, flushing, with_threads, compiled):
    generator = torch.Generator().manual_seed(3)
    normals = torch.randn(2, 3000, d, dtype=torch.float64, generator=generator)
    x = (normals * SUBNORMAL[dtype]).to(dtype)
    ancestors = torch.arange(3000, dtype=torch.int32).repeat(2, 1)
    numbers = torch.tensor([[1.0, 1e-80, 1e-80], [0.5, 1e-12, 1e-12]], dtype=torch.float64)
    inputs = x, x, ancestors, numbers, ops.rng_state(0, 1)
    with with_threads(threads):
        wanted = ops.propagate(*inputs)
        with flushing():
            results = ops.propagate(*inputs)
    assert all(equal(results, wanted))
    assert x.any()


@pytest.mark.parametrize("d", [1, 5, 40])
@pytest.mark.parametrize("dtype", SUBNORMAL, ids=str)
def test_reversals_of_subnormal_scores_have_the_same_bits(dtype, d, flushing, compiled):
    generator = torch.Generator().manual_seed(3)
    normals = torch.randn(5, 2, 3000, d, dtype=torch.float64, generator=generator)
    first, second, *products, probes = (normals * SUBNORMAL[dtype]).to(dtype)[:, :, :, None]
    inputs = (
        [first[:, :, 0], second[:, :, 0]],
        torch.tensor([[2.0, -0.5]] * 2, dtype=torch.float64),
        # the step is so wide that squares of subnormal float32 scores count
        torch.tensor([1e120, 1e119], dtype=torch.float64),
    )
    given = {"products": products, "probes": probes}
    wanted = ops.reversal(*inputs, **given)
    with flushing():
        results = ops.reversal(*inputs, **given)
    assert all(equal(results, wanted))
    assert first.any()


def test_the_mode_of_the_caller_is_left_as_it_was(flushing, compiled):
    tiny = torch.tensor([SUBNORMAL[torch.float32]])
    with flushing():
        ops.standard_normal(torch.empty(2, 3, 4))
        assert float((tiny + 0).abs().sum()) == 0.0
    assert float((tiny + 0).abs().sum()) > 0.0
