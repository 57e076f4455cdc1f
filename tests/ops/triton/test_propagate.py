"""Triton proposal steps give the states of the plain reference, and R to rounding."""

from __future__ import annotations

import pytest
import torch

from edmfast.ops import rng_state
from edmfast.ops.propagate import reference

propagate = pytest.importorskip("edmfast.ops.propagate.triton_ops", exc_type=ImportError)

SHAPES = [(1, 1, 1), (2, 3, 2), (3, 5, 3), (2, 70, 5), (2, 7, 64), (1, 2, 1027)]
HALVES = (torch.float16, torch.bfloat16)


def make(models, shape, dtype, masked, generator, each=False):
    x, *scores = torch.randn(models + 1, *shape, generator=generator, dtype=torch.float64).to(dtype)
    ancestors = torch.randint(
        0, shape[1], shape[:2], generator=generator, dtype=torch.int32
    ).sort()[0]
    rows = shape[: 2 if each else 1]
    coefficients = torch.rand(*rows, models + 2, generator=generator, dtype=torch.float64) + 0.1
    mask = torch.rand(shape[0], shape[2], generator=generator) < 0.6 if masked else None
    return x, scores, ancestors, coefficients, rng_state(5, 7), mask, 2, 2**31 - 1


@pytest.fixture
def equal(request):
    """Return whether states agree, up to a unit in the last place where the interpreter truncates to bfloat16."""

    def check(ours, truth):
        if truth.dtype == torch.bfloat16 and "interpreter" in request.node.callspec.id:
            torch.testing.assert_close(ours, truth, rtol=2**-7, atol=0)
        else:
            assert torch.equal(ours, truth)

    return check


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES])
@pytest.mark.parametrize(("models", "masked"), [(1, True), (2, False), (3, True)])
def test_same_bits(run, equal, generator, models, masked, shape, dtype):
    inputs = make(models, shape, dtype, masked, generator)
    moved, ratio = run(propagate.propagate, *inputs)
    wanted, wanted_ratio = reference.propagate(*inputs)
    assert moved.dtype == dtype
    equal(moved, wanted)
    assert ratio.dtype == wanted_ratio.dtype
    close = (
        {"rtol": 1e-13, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-4}
    )
    torch.testing.assert_close(ratio, wanted_ratio, **close)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_coefficients_of_each_particle(run, generator, dtype, shape):
    x, scores, ancestors, table, *rest = inputs = make(2, shape, dtype, True, generator, each=True)
    moved, ratio = run(propagate.propagate, *inputs)
    wanted, wanted_ratio = reference.propagate(*inputs)
    assert torch.equal(moved, wanted)
    close = (
        {"rtol": 1e-13, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-4}
    )
    torch.testing.assert_close(ratio, wanted_ratio, **close)
    rows = table[:, 0].contiguous()
    equal_rows = rows[:, None].expand_as(table)
    ours = run(propagate.propagate, x, scores, ancestors, equal_rows, *rest)
    theirs = run(propagate.propagate, x, scores, ancestors, rows, *rest)
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_eight_scores(run, generator, dtype):
    inputs = make(8, (2, 3, 9), dtype, True, generator)
    assert torch.equal(run(propagate.propagate, *inputs)[0], reference.propagate(*inputs)[0])


def test_nothing_moves_under_an_empty_mask(run, generator):
    x, scores, ancestors, coefficients, rng, _, *first = make(
        1, (2, 3, 6), torch.float32, False, generator
    )
    scores[0][:] = torch.nan
    mask = torch.zeros(2, 6, dtype=torch.bool)
    moved, ratio = run(propagate.propagate, x, scores, ancestors, coefficients, rng, mask, *first)
    assert torch.equal(moved, x.gather(1, ancestors.long()[..., None].expand_as(x)))
    assert torch.equal(ratio, torch.zeros(2, 3))


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0)])
def test_empty(run, shape):
    x = torch.empty(shape)
    ancestors = torch.zeros(shape[:2], dtype=torch.int32)
    coefficients = torch.full((shape[0], 3), 0.5, dtype=torch.float64)
    inputs = x, [x], ancestors, coefficients, rng_state(0, 0), None, 0, 0
    moved, ratio = run(propagate.propagate, *inputs)
    assert moved.shape == shape
    assert torch.equal(ratio, torch.zeros(shape[:2]))


def test_any_strides(run, generator):
    x, scores, *rest = make(2, (2, 5, 8), torch.float32, True, generator)
    spread = [s.repeat_interleave(2, dim=-1)[..., ::2] for s in scores]
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert not turned.is_contiguous()
    moved, _ = run(propagate.propagate, turned, spread, *rest)
    assert torch.equal(moved, reference.propagate(x, scores, *rest)[0])


@pytest.mark.parametrize("value", [-1, 7, 2**31 - 1])
@pytest.mark.parametrize("each", [False, True])
def test_nothing_is_read_through_an_ancestor_that_names_no_particle(run, generator, each, value):
    x, scores, _, numbers, *rest = make(1, (2, 7, 5), torch.float32, False, generator, each)
    ancestors = torch.arange(7, dtype=torch.int32).repeat(2, 1)
    ancestors[1, 3] = value
    moved, ratio = run(propagate.propagate, x, scores, ancestors, numbers, *rest)
    # the weights report the NaN
    assert ratio.isnan().nonzero().tolist() == [[1, 3]]
    assert not moved.isnan().any()
