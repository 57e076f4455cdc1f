"""Triton attention and its two derivatives agree with the reference in float64, and with themselves.

The tolerance is measured: twice the error in the mean square of the reference in float32, or of the plain
formula in a half precision, plus a unit in the last place.
"""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.ops.attention import reference
from tests.ops.triton.as_on_a_device import as_on_a_device

attention = pytest.importorskip("edmfast.ops.attention.triton_ops", exc_type=ImportError)

HALVES = (torch.float16, torch.bfloat16)
NAMES = ("out", "lse", "dq", "dk", "dv", "g_grad", "gq", "gk", "gv")


def three_orders(a, b, c, grad, q, k, v, *options, module=attention):
    out, lse = module.attention(q, k, v, *options)
    first = module.attention_backward(grad, q, k, v, out, lse, *options)
    second = module.attention_double_backward(a, b, c, grad, q, k, v, out, lse, *options)
    return out, lse, *first, *second


def kernels(*arguments):
    with as_on_a_device():
        return three_orders(*arguments)


def kernel(name, *arguments):
    with as_on_a_device():
        return getattr(attention, name)(*arguments)


def reference_of(*arguments):
    return three_orders(*arguments, module=reference)


def plainly(a, b, c, grad, q, k, v, mask, scale, causal):
    """Compute the same by the definition, differentiated by torch in the precision of the inputs."""
    grad, q, k, v = inputs = [tensor.detach().requires_grad_() for tensor in (grad, q, k, v)]
    scores = (q @ k.mT) * scale
    counts = torch.ones(scores.shape, dtype=torch.bool)
    if causal:
        counts = counts.tril()
    if mask is not None:
        counts = counts & mask[:, None, None]
    scores = scores.masked_fill(~counts, -math.inf)
    lse = scores.detach().logsumexp(-1, keepdim=True)
    p = torch.where(counts, (scores - scores.detach().amax(-1, keepdim=True)).exp(), 0.0)
    total = p.sum(-1, keepdim=True)
    out = (p / torch.where(total == 0, 1.0, total)) @ v
    first = torch.autograd.grad(out, (q, k, v), grad, create_graph=True)
    second = torch.autograd.grad(first, inputs, (a, b, c))
    return [value.detach() for value in (out, lse[..., 0], *first, *second)]


def make(generator, dtype, batch, heads, length, keys, d, e):
    """Return a, b, c, grad, q, k, v."""
    shapes = [(length, d), (keys, d), (keys, e), (length, e), (length, d), (keys, d), (keys, e)]
    return [
        torch.randn(batch, heads, *shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in shapes
    ]


def assert_close(results, tensors, *options):
    dtype = tensors[0].dtype
    truth = reference_of(*[tensor.double() for tensor in tensors], *options)
    single = dtype == torch.float32  # the reference computes half precisions in float32
    low = (reference_of if single else plainly)(*tensors, *options)
    for name, ours, plain, wanted in zip(NAMES, results, low, truth, strict=True):
        assert ours.is_contiguous()
        assert ours.shape == wanted.shape
        assert ours.dtype == (torch.float32 if name == "lse" else dtype)
        empty = wanted == -math.inf
        assert torch.equal(ours == -math.inf, empty)
        ours, plain, wanted = (x.double().masked_fill(empty, 0) for x in (ours, plain, wanted))
        unit = torch.finfo(torch.float32 if name == "lse" else dtype).eps
        error, allowed, size = (
            value.square().mean().sqrt() for value in (ours - wanted, plain - wanted, wanted)
        )
        assert error <= 2 * allowed + unit * max(1, size), name


SHAPES = [
    (1, 2, 1, 1, 16, 16),
    (2, 2, 7, 12, 16, 40),
    (1, 1, 129, 129, 40, 16),
    (2, 1, 40, 70, 64, 64),
    (1, 2, 9, 33, 128, 100),
]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_three_orders(run, generator, dtype, shape, masked, causal):
    if dtype != torch.float32 and masked != causal:
        pytest.skip("of the half precisions every other one")
    tensors = make(generator, dtype, *shape)
    mask = torch.rand(shape[0], shape[3], generator=generator) < 0.6 if masked else None
    options = mask, shape[4] ** -0.5, causal
    assert_close(run(kernels, *tensors, *options), tensors, *options)


def on_hopper(*arguments):
    from edmfast.ops.attention import triton_launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_launch, "_capability", lambda: 90)
        return kernels(*arguments)


@pytest.mark.parametrize(
    ("length", "keys", "causal"), [(150, 210, True), (210, 150, True), (150, 130, False)]
)
def test_blocks_of_hopper(run, generator, length, keys, causal):
    """Blocks that need no check, those at the diagonal, and those that are not full, for queries and for keys."""
    tensors = make(generator, torch.bfloat16, 1, 1, length, keys, 64, 64)
    assert_close(run(on_hopper, *tensors, None, 0.125, causal), tensors, None, 0.125, causal)


# the job "cuda" also runs the slow one at every push
@pytest.mark.parametrize("length", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_blocks(run, generator, length):
    tensors = make(generator, torch.bfloat16, 1, 1, length, length + 10, 16, 16)
    mask = torch.rand(1, length + 10, generator=generator) < 0.9
    assert_close(run(kernels, *tensors, mask, 0.25, True), tensors, mask, 0.25, True)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_rows_without_keys_are_zero(run, generator, dtype):
    tensors = make(generator, dtype, 2, 2, 9, 20, 16, 16)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[0, :3] = False  # by causality these are the first three rows of the first batch
    mask[1] = False
    out, lse, dq, dk, dv, g_grad, gq, gk, gv = run(kernels, *tensors, mask, 0.3, True)
    assert torch.equal(
        lse == -math.inf, (torch.arange(9) < torch.tensor([[[3]], [[9]]])).expand(2, 2, 9)
    )
    for value in (out, dq, g_grad, gq, dk, dv, gk, gv):
        assert value.isfinite().all()
        assert not value[1].any()
        assert not value[0, :, :3].any()
    assert out[0, :, 3:].any(-1).all()


def test_scores_that_overflow_downwards_are_those_of_no_key(run):
    q = torch.full((1, 1, 2, 16), 1e30)
    v = torch.ones(1, 1, 3, 16)
    options = None, 1.0, False
    results = run(kernel, "attention", q, -q[:, :, :1].expand(1, 1, 3, 16), v, *options)
    assert not results[0].any()
    arguments = q, q, -q[:, :, :1].expand(1, 1, 3, 16), v, *results, *options
    for value in run(kernel, "attention_backward", *arguments):
        assert not value.any()


def test_any_strides(run, generator):
    """Views have the bits of contiguous tensors, and are read where they are."""
    a, b, c, grad, q, k, v = make(generator, torch.float32, 2, 2, 20, 33, 16, 24)
    views = [
        a.transpose(1, 2).contiguous().transpose(1, 2),  # heads come before positions
        b.mT.contiguous().mT,
        c.repeat_interleave(2, dim=-1)[..., ::2],
        grad[:1, :, :1, :1].expand_as(grad),  # the gradient of a sum is expanded
        torch.stack([q, q + 1]).permute(1, 2, 3, 4, 0)[..., 0],
        k[:, :1].expand_as(k),
        torch.cat([v, v], dim=2)[:, :, :33],
    ]
    mask = (torch.rand(2, 66, generator=generator) < 0.6)[:, ::2]
    options = mask, 0.3, False
    results = run(kernels, *views, *options)
    plain = run(kernels, *[view.contiguous() for view in views], mask.contiguous(), 0.3, False)
    for ours, wanted in zip(results, plain, strict=True):
        assert torch.equal(ours, wanted)
    assert_close(results, [view.contiguous() for view in views], *options)


def test_out_and_lse_of_any_strides(run, generator):
    a, b, c, grad, q, k, v = make(generator, torch.float32, 2, 2, 20, 33, 16, 24)
    out, lse = run(kernel, "attention", q, k, v, None, 0.3, False)
    turned = out.mT.contiguous().mT, lse.mT.contiguous().mT
    for name, cotangents in (("backward", (grad,)), ("double_backward", (a, b, c, grad))):
        operands = f"attention_{name}", *cotangents, q, k, v
        results = run(kernel, *operands, *turned, None, 0.3, False)
        plain = run(kernel, *operands, out, lse, None, 0.3, False)
        for ours, wanted in zip(results, plain, strict=True):
            assert torch.equal(ours, wanted)


def test_the_rounding_of_out_is_shared(run, generator):
    """Row sums of P ∘ (dP - δ) belong to the `out` of the call, which is far from the exact one here."""
    tensors = make(generator, torch.float32, 1, 2, 20, 33, 16, 24)
    out, lse = reference.attention(*tensors[4:], None, 0.3, False)
    operands = *tensors, out + 0.1, lse
    results = run(kernel, "attention_double_backward", *operands, None, 0.3, False)
    doubles = [tensor.double() for tensor in operands]
    truth = reference.attention_double_backward(*doubles, None, 0.3, False)
    for ours, wanted in zip(results, truth, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "heads", "length", "keys"), [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)]
)
def test_empty(run, generator, batch, heads, length, keys):
    tensors = make(generator, torch.float32, batch, heads, length, keys, 16, 16)
    results = run(kernels, *tensors, torch.ones(batch, keys, dtype=torch.bool), 0.3, False)
    for ours, wanted in zip(results, reference_of(*tensors, None, 0.3, False), strict=True):
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize(
    ("dtype", "d", "e"), [(torch.float64, 16, 16), (torch.float32, 16, 129), (torch.float32, 0, 4)]
)
def test_the_reference_does_the_rest(run, generator, dtype, d, e):
    tensors = make(generator, dtype, 2, 2, 5, 6, d, e)
    results = run(kernels, *tensors, None, 0.3, True)
    for ours, wanted in zip(results, reference_of(*tensors, None, 0.3, True), strict=True):
        assert torch.equal(ours, wanted)


def test_products_are_as_exact_as_those_of_torch():
    from edmfast.ops._shared.triton_precision import precision

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert precision(torch.float32) == "tf32x3"
        torch.set_float32_matmul_precision("high")
        assert precision(torch.float32) == "tf32"
        assert precision(torch.bfloat16) == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)
