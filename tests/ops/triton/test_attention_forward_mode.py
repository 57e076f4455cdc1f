"""Triton attention in forward mode agrees with the reference in float64, on any views and for absent tangents.

The tolerance is measured: twice the error in the mean square of the reference in float32, or of the plain
formula in a half precision, plus a unit in the last place.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.func import jvp

from edmfast.ops.attention import reference
from edmfast.ops.attention.composition import composed
from tests.ops.triton.as_on_a_device import as_on_a_device

attention = pytest.importorskip("edmfast.ops.attention.triton_ops", exc_type=ImportError)


def kernel(*arguments):
    with as_on_a_device():
        return attention.attention_jvp(*arguments)


def make(generator, dtype, batch, heads, length, keys, d, e):
    """Return the tangents of q, k and v, then q, k and v."""
    shapes = [(length, d), (keys, d), (keys, e)] * 2
    return [
        torch.randn(batch, heads, *shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in shapes
    ]


def low(tensors, options):
    """Return the results of the plain formula, in the precision of the inputs."""
    if tensors[3].dtype == torch.float32:
        return reference.attention_jvp(*tensors, *options)
    mask, scale, causal = options
    zeros = [
        torch.zeros_like(x) if t is None else t
        for t, x in zip(tensors[:3], tensors[3:], strict=True)
    ]
    return jvp(lambda *t: composed(*t, mask, scale, causal), tuple(tensors[3:]), tuple(zeros))


def assert_close(results, tensors, *options):
    dtype = tensors[3].dtype
    doubles = [None if tensor is None else tensor.double() for tensor in tensors]
    truth = reference.attention_jvp(*doubles, *options)
    for ours, plain, wanted in zip(results, low(tensors, options), truth, strict=True):
        assert ours.is_contiguous()
        assert (ours.shape, ours.dtype) == (wanted.shape, dtype)
        error, allowed, size = (
            value.square().mean().sqrt()
            for value in (ours.double() - wanted, plain.double() - wanted, wanted)
        )
        assert error <= 2 * allowed + torch.finfo(dtype).eps * max(1, size)


SHAPES = [
    (1, 2, 1, 1, 16, 16),
    (2, 2, 7, 12, 16, 40),
    (1, 1, 129, 140, 40, 16),
    (1, 2, 9, 33, 128, 100),
]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_tangents(run, generator, dtype, shape, masked, causal):
    if dtype != torch.float32 and masked != causal:
        pytest.skip("of the half precisions every other one")
    tensors = make(generator, dtype, *shape)
    mask = torch.rand(shape[0], shape[3], generator=generator) < 0.6 if masked else None
    options = mask, shape[4] ** -0.5, causal
    assert_close(run(kernel, *tensors, *options), tensors, *options)


def test_absent_tangents(run, generator):
    tensors = make(generator, torch.float32, 1, 2, 9, 20, 16, 24)
    for present in itertools.product((False, True), repeat=3):
        tangents = [t if there else None for t, there in zip(tensors[:3], present, strict=True)]
        operands = *tangents, *tensors[3:]
        results = run(kernel, *operands, None, 0.3, True)
        assert_close(results, operands, None, 0.3, True)
        assert results[1].any() == any(present)


def test_any_strides(run, generator):
    tensors = make(generator, torch.float32, 2, 2, 20, 33, 16, 24)
    views = [
        tensors[0].transpose(1, 2).contiguous().transpose(1, 2),
        tensors[1].mT.contiguous().mT,
        tensors[2][:1, :, :1, :1].expand_as(tensors[2]),
        torch.stack([tensors[3], tensors[3]], -1)[..., 0],
        tensors[4][:, :1].expand_as(tensors[4]),
        tensors[5].repeat(1, 1, 2, 1)[:, :, :33],
    ]
    results = run(kernel, *views, None, 0.3, False)
    plain = run(kernel, *[view.contiguous() for view in views], None, 0.3, False)
    for ours, wanted in zip(results, plain, strict=True):
        assert torch.equal(ours, wanted)


def test_rows_without_keys_are_zero(run, generator):
    tensors = make(generator, torch.bfloat16, 2, 2, 9, 20, 16, 16)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[0, :3] = False  # by causality these are the first three rows of the first batch
    mask[1] = False
    for result in run(kernel, *tensors, mask, 0.3, True):
        assert not result[1].any()
        assert not result[0, :, :3].any()
        assert result[0, :, 3:].any(-1).all()


@pytest.mark.parametrize(("length", "keys"), [(0, 4), (3, 0)])
def test_empty(run, generator, length, keys):
    tensors = make(generator, torch.float32, 2, 2, length, keys, 16, 16)
    for ours, wanted in zip(
        run(kernel, *tensors, None, 0.3, False),
        reference.attention_jvp(*tensors, None, 0.3, False),
        strict=True,
    ):
        assert torch.equal(ours, wanted)
