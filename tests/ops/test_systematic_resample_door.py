"""The door of systematic resampling serves plain calls with the operator's bits, and leaves all others alone."""

from __future__ import annotations

import io

import pytest
import torch
from torch.autograd import forward_ad
from torch.profiler import ProfilerActivity, profile

from edmfast.ops import systematic_resample
from edmfast.ops._shared.door import opened

OPERATOR = torch.ops.edmfast.systematic_resample.default
F64 = torch.float64
W, U = torch.linspace(-1, 1, 12).reshape(3, 4), torch.linspace(0.1, 0.9, 3, dtype=F64)


@pytest.fixture
def door(compiled):
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        pytest.skip("this torch has no table of DLPack")
    return opened().resample


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (256, 4), (7, 16), (3, 1000), (2, 40_000)], ids=str)
def test_it_has_the_results_of_the_operator(door, generator, with_threads, shape, dtype):
    weights = torch.randn(shape, generator=generator, dtype=dtype)
    points = torch.rand(shape[0], generator=generator, dtype=F64)
    weights[0, 0] = float("nan")
    for threshold in (0.0, 0.5, 1.0):
        wanted = OPERATOR(weights, points, threshold)
        for threads in (1, 2):
            with with_threads(threads):
                results = door(weights, points, threshold)
            for ours, truth in zip(results, wanted, strict=True):
                assert (ours.dtype, ours.shape, ours.stride()) == (
                    truth.dtype,
                    truth.shape,
                    truth.stride(),
                )
                assert torch.equal(ours, truth)


@pytest.mark.parametrize(
    "arguments",
    [
        (W.half(), U, 1.0),
        (W.int(), U, 1.0),
        (W[0], U, 1.0),
        (W[:, ::2], U, 1.0),
        (W.T, U, 1.0),
        (W[:0], U[:0], 1.0),
        (W[:, :0], U, 1.0),
        (W.to("meta"), U, 1.0),
        (torch.nn.Parameter(W), U, 1.0),
        (torch._neg_view(W), U, 1.0),
        (W, U.float(), 1.0),
        (W, U[:2], 1.0),
        (W, U[:, None], 1.0),
        (W, 0.5, 1.0),
        (W, U, 1),
        (W, U, 1.5),
        (W, U, -0.5),
        (W, U, float("nan")),
        (W, U, None),
        (W, U),
        (None, U, 1.0),
    ],
    ids=str,
)
def test_it_leaves_all_else_to_the_dispatcher(door, arguments):
    assert door(*arguments) is None


def test_it_leaves_derivatives_and_watchers_to_the_dispatcher(door):
    leaf = W.clone().requires_grad_()
    assert door(leaf, U, 1.0) is None
    with pytest.raises(RuntimeError, match="has no derivative"):
        systematic_resample(leaf, U)
    with torch.no_grad():
        assert door(leaf, U, 1.0) is not None
    with forward_ad.dual_level():
        assert door(forward_ad.make_dual(W, W), U, 1.0) is None
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        assert door(W, U, 1.0) is None
        systematic_resample(W, U)
    assert "edmfast::systematic_resample" in {event.key for event in recorded.key_averages()}


def test_its_results_live_on_their_own(door):
    """They are ordinary tensors, but for their storage, which cannot grow."""
    results = door(W, U, 1.0)
    kept = [result.clone() for result in results]
    for _ in range(100):
        door(W, U, 1.0)
    assert all(torch.equal(ours, before) for ours, before in zip(results, kept, strict=True))
    results[0].add_(1)
    torch.save(results[0], io.BytesIO())
    assert not results[0].is_inference()
    assert results[1].requires_grad_().requires_grad
    with torch.inference_mode():
        assert door(W, U, 1.0)[0].is_inference()


def test_compiled_it_is_the_operator(compiled):
    call = torch.compile(lambda w, u: systematic_resample(w, u).ancestors, fullgraph=True)
    assert torch.equal(call(W, U), systematic_resample(W, U).ancestors)
