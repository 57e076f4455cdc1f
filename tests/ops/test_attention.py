"""Attention and its two derivatives equal the plain formula in float64, and bad input is refused."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch

from bench.studies import attention_memory
from edmfast import _extension
from edmfast.ops import attention
from edmfast.ops.attention import cpu

DOUBLE = torch.float64
KEYS = 19  # enough keys for torch's own kernel on the CPU; they are not a multiple of a vector


def plain(q, k, v, scale=None, causal=False, key_mask=None):
    """Compute attention by its definition, differentiable to any order; rows without keys give 0."""
    scores = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    allowed = torch.ones(scores.shape, dtype=torch.bool, device=q.device)
    if causal:
        allowed = allowed.tril()
    if key_mask is not None:
        allowed = allowed & key_mask.reshape(len(key_mask), *[1] * (q.dim() - 2), -1)
    weights = torch.where(allowed, (scores - scores.detach().amax(-1, keepdim=True)).exp(), 0.0)
    return (weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)) @ v


def inputs(generator, lead, length, keys, d, e, dtype=DOUBLE):
    shapes = ((*lead, length, d), (*lead, keys, d), (*lead, keys, e))
    return [
        torch.randn(shape, generator=generator, dtype=DOUBLE).to(dtype).requires_grad_()
        for shape in shapes
    ]


def three_orders(function, tensors, cotangents, **options):
    """Return O, its three gradients (backward), and four gradients of a product with those (double backward)."""
    first, seconds = cotangents[0].detach().requires_grad_(), cotangents[1:]
    out = function(*tensors, **options)
    gradients = torch.autograd.grad(out, tensors, first, create_graph=True)
    assert all(gradient.requires_grad for gradient in gradients)
    twice = torch.autograd.grad(gradients, (first, *tensors), seconds)
    return [value.detach() for value in (out, *gradients, *twice)]


def cotangents_of(generator, tensors, dtype=DOUBLE):
    q, k, v = tensors
    shapes = ((*q.shape[:-1], v.shape[-1]), q.shape, k.shape, v.shape)
    return [torch.randn(s, generator=generator, dtype=DOUBLE).to(dtype) for s in shapes]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("length", "keys"),
    [(1, 1), (7, 7), (7, 12), (40, 17), (17, 40), (129, 129), (40, 1000), (800, 30)],
)
@pytest.mark.parametrize(
    "width", [5, 8]
)  # this is the width of values; torch's own kernel needs the width of keys, 8
def test_three_orders_against_the_definition(generator, length, keys, masked, causal, width):
    tensors = inputs(generator, (2, 3), length, keys, 8, width)
    cotangents = cotangents_of(generator, tensors)
    options = {"causal": causal, "scale": 0.3}
    if masked:
        options["key_mask"] = torch.rand(2, keys, generator=generator) < 0.6
    ours = three_orders(attention, tensors, cotangents, **options)
    truth = three_orders(plain, tensors, cotangents, **options)
    for a, b in zip(ours, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@pytest.mark.parametrize("scale", [-0.3, 0.0, 1e-46, 1e-300])
def test_causal_whatever_the_scale(generator, scale, dtype):
    """A kernel that scales after masking would multiply -inf here."""
    tensors = inputs(generator, (1, 2), 20, 20, 8, 8, dtype)
    cotangents = cotangents_of(generator, tensors, dtype)
    ours = three_orders(attention, tensors, cotangents, causal=True, scale=scale)
    truth = three_orders(plain, tensors, cotangents, causal=True, scale=scale)
    tolerance = 1e-10 if dtype == DOUBLE else 1e-5
    for a, b in zip(ours, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("keys", [1, 5, 15, 16, 20])
@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
def test_nan_is_not_hidden(keys, dtype):
    """A row of scores that is all NaN does not count as a row without keys."""
    q, k = torch.zeros(1, 2, 3, 8, dtype=dtype), torch.zeros(1, 2, keys, 8, dtype=dtype)
    q[0, 0, 1] = math.nan
    out = attention(q, k, k)
    assert out[0, 0, 1].isnan().all()
    assert out.isnan().sum() == 8


def test_blocks_of_queries(generator, monkeypatch):
    """Many blocks of rows and of heads give the numbers of one block."""
    from edmfast.ops.attention import reference

    tensors = inputs(generator, (5,), 70, 50, 8, 6)
    cotangents = cotangents_of(generator, tensors)
    whole = three_orders(attention, tensors, cotangents, causal=True)
    monkeypatch.setattr(reference, "_BLOCK", 1600)
    for a, b in zip(three_orders(attention, tensors, cotangents, causal=True), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_no_worse_than_the_plain_formula(generator, dtype):
    tensors = inputs(generator, (2, 2), 33, 33, 16, 16, dtype)
    cotangents = cotangents_of(generator, tensors, dtype)
    ours = three_orders(attention, tensors, cotangents)
    low = three_orders(plain, tensors, cotangents)
    doubles = [tensor.detach().double().requires_grad_() for tensor in tensors]
    truth = three_orders(plain, doubles, [c.double() for c in cotangents])
    for a, b, wanted in zip(ours, low, truth, strict=True):
        error = (a.double() - wanted).abs().max()
        assert error <= 2 * (b.double() - wanted).abs().max() + 1e-7


@pytest.mark.parametrize("causal", [False, True])
def test_gradcheck(generator, causal):
    tensors = inputs(generator, (2,), 5, 6, 3, 4)
    key_mask = torch.rand(2, 6, generator=generator) < 0.8

    def call(q, k, v):
        return attention(q, k, v, causal=causal, key_mask=key_mask)

    assert torch.autograd.gradcheck(call, tensors)
    assert torch.autograd.gradgradcheck(call, tensors)


def test_rows_without_keys_are_zero_and_give_no_gradient(generator):
    q, k, v = inputs(generator, (2,), 4, 6, 8, 8)
    key_mask = torch.ones(2, 6, dtype=torch.bool)
    key_mask[1] = False
    outputs = three_orders(
        attention, (q, k, v), cotangents_of(generator, (q, k, v)), key_mask=key_mask
    )
    for value in outputs:
        assert value.isfinite().all()
    assert not any(value[1].any() for value in outputs[:4])


def test_absent_cotangents_are_zero(generator):
    q, k, v = inputs(generator, (1,), 6, 6, 4, 4)
    for chosen in ([0], [1], [2], [0, 2]):
        results = []
        for function in (attention, plain):
            gradients = torch.autograd.grad(
                function(q, k, v).sin().sum(), (q, k, v), create_graph=True
            )
            scalar = sum(gradients[i].square().sum() for i in chosen)
            results.append(torch.autograd.grad(scalar, (q, k, v)))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_third_derivative_raises(generator):
    q, k, v = inputs(generator, (1,), 4, 4, 4, 4)
    (first,) = torch.autograd.grad(attention(q, k, v).sin().sum(), q, create_graph=True)
    (second,) = torch.autograd.grad(first.sin().sum(), q, create_graph=True)
    assert second.requires_grad
    with pytest.raises(RuntimeError, match="third"):
        torch.autograd.grad(second.sum(), q)


def test_drop_in_for_scaled_dot_product_attention(generator):
    q, k, v = inputs(generator, (2, 3), 9, 9, 8, 8)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(attention(q, k, v), sdpa(q, k, v))
    causal = sdpa(q, k, v, is_causal=True, scale=0.2)
    torch.testing.assert_close(attention(q, k, v, 0.2, True), causal)


@pytest.mark.parametrize("shape", [(0, 4, 3, 8), (2, 4, 0, 8)])
def test_empty(shape):
    q = torch.randn(shape, requires_grad=True)
    out = attention(q, q, q)
    assert out.shape == shape
    (gradient,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    assert gradient.shape == shape


def test_no_keys():
    q, k = torch.randn(2, 3, 4), torch.randn(2, 0, 4)
    assert torch.equal(attention(q, k, k), torch.zeros(2, 3, 4))


def test_strides(generator):
    base = torch.randn(2, 10, 3, 8, generator=generator, dtype=DOUBLE)
    q = base.transpose(1, 2).requires_grad_()  # models have heads before positions
    k = base.flip(1).transpose(1, 2)[:, :, ::2]
    v = torch.randn(1, 1, 5, 8, generator=generator, dtype=DOUBLE).expand(2, 3, 5, 8)
    torch.testing.assert_close(attention(q, k, v), plain(q, k, v))


def test_any_strides_in_every_order(generator):
    """Strides do not matter: positions side by side in q, every second number of k, one v for all heads."""
    q, k, v = (t.detach() for t in inputs(generator, (2, 3), 7, KEYS, 8, 8))
    cotangents = cotangents_of(generator, (q, k, v))
    truth = three_orders(
        plain, [t.requires_grad_() for t in (q, k, v[:1, :1].expand_as(v))], cotangents
    )
    spread = torch.randn(2, 3, KEYS, 16, generator=generator, dtype=DOUBLE)
    spread[..., ::2] = k.detach()
    strided = q.detach().mT.contiguous().mT, spread[..., ::2], v.detach()[:1, :1].expand_as(v)
    cotangents[0] = cotangents[0].mT.contiguous().mT
    outputs = three_orders(attention, [t.requires_grad_() for t in strided], cotangents)
    for a, b in zip(outputs, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("permuted", [False, True])
def test_opcheck(generator, permuted, masked):
    q, k, v = inputs(generator, (2, 3), 5, KEYS, 4, 4, torch.float32)
    grad = torch.randn(2, 3, 5, 4, generator=generator).requires_grad_()
    if permuted:  # heads come before positions, then positions after widths
        q, v, grad = (
            t.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
            for t in (q, v, grad)
        )
        k = k.detach().mT.contiguous().mT.requires_grad_()
    mask = torch.ones(2, KEYS, dtype=torch.bool) if masked else None
    if masked:
        mask[0, 2] = False
    torch.library.opcheck(torch.ops.edmfast.attention.default, (q, k, v, mask, 0.5, True))
    with torch.no_grad():
        out, lse = torch.ops.edmfast.attention(q, k, v, mask, 0.5, True)
    rest = (grad, q, k, v, out, lse, mask, 0.5, True)
    torch.library.opcheck(torch.ops.edmfast.attention_backward.default, rest)
    detached = [t.detach() if isinstance(t, torch.Tensor) else t for t in (q, k, v, *rest)]
    torch.library.opcheck(torch.ops.edmfast.attention_double_backward.default, tuple(detached))


def test_heads_before_positions_are_not_copied(generator, monkeypatch):
    """The operator gets views of the inputs, and the mask of every batch entry once."""
    seen = []
    monkeypatch.setattr(
        torch.ops.edmfast,
        "attention",
        lambda *operands: (seen.extend(operands), (operands[0], None))[1],
    )
    qkv = torch.randn(2, 5, 3, 4, 8, generator=generator)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    key_mask = torch.ones(2, 5, dtype=torch.bool)
    attention(q, k, v, key_mask=key_mask)
    assert [t.data_ptr() for t in seen[:4]] == [t.data_ptr() for t in (q, k, v, key_mask)]
    assert seen[0].stride() == q.stride()


def test_compiles_without_a_break(generator):
    q, k, v = (t.detach() for t in inputs(generator, (2, 2), 9, KEYS, 8, 8, torch.float32))
    compiled = torch.compile(
        lambda *operands: attention(*operands, causal=True) * 2, fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(q, k, v), attention(q, k, v, causal=True) * 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": torch.zeros(2, 4, 7)}, ValueError, "must be"),
        ({"v": torch.zeros(2, 5, 8)}, ValueError, "must be"),
        ({"k": torch.zeros(2, 4, 8).double()}, TypeError, "share one"),
        ({"q": torch.zeros(2, 4, 8, dtype=torch.int64)}, TypeError, "share one"),
        ({"key_mask": torch.zeros(2, 5) > 0}, ValueError, "key_mask"),
        ({"key_mask": torch.zeros(2, 4)}, TypeError, "bool"),
        ({"scale": math.nan}, ValueError, "finite"),
        ({"scale": torch.ones((), requires_grad=True)}, TypeError, "number"),
    ],
)
def test_errors(change, error, message):
    arguments = {name: torch.zeros(2, 4, 8) for name in "qkv"}
    with pytest.raises(error, match=message):
        attention(**arguments | change)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_grows_with_the_length_only():
    """From length 2048 to 8192 the memory of the plain formula would grow 16 times, to ten matrices of 256 MB."""
    peaks = [attention_memory.peak(length, "ours") for length in (2048, 8192)]
    assert peaks[1] < 4 * max(peaks[0], 16), peaks
    assert peaks[1] < 128, peaks


def test_autocast_is_that_of_torchs_attention(generator):
    q, k, v = inputs(generator, (2, 2), 5, 5, 8, 8, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attention(q, k.bfloat16(), v)
        wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        assert attention(q.double(), k.double(), v.double()).dtype == DOUBLE
    assert mixed.dtype == wanted.dtype == torch.bfloat16
    torch.testing.assert_close(mixed, wanted, rtol=0.02, atol=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_sequence_whose_scores_would_not_fit(generator):
    """Attention runs at L = 32,768, where one matrix of scores of these heads takes 32 GiB in bfloat16."""
    shape = (1, 16, 32_768, 64)
    q, k, v, g, a, b, c = (
        torch.randn(shape, generator=generator).to("cuda", torch.bfloat16) for _ in range(7)
    )
    q, k, v = (tensor.requires_grad_() for tensor in (q, k, v))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    g.requires_grad_()
    first = torch.autograd.grad(attention(q, k, v), (q, k, v), g, create_graph=True)
    second = torch.autograd.grad(first, (g, q, k, v), (a, b, c))
    assert torch.cuda.max_memory_allocated() - before < 2 * 2**30
    rows = slice(0, 64)  # this compares one head with the formula in float64
    head = [tensor[0, 3].detach().double() for tensor in (q, k, v)]
    wanted = plain(head[0][rows], *head[1:])
    torch.testing.assert_close(
        attention(q, k, v)[0, 3, rows].double(), wanted, rtol=0.02, atol=0.02
    )
    assert all(value.isfinite().all() for value in (*first, *second))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions_run_the_fused_kernel_in_float32(dtype, monkeypatch):
    if os.environ.get(_extension.REFERENCE) == "1":
        pytest.skip("the reference alone is in use")
    for name in ("attention", "attention_backward"):
        monkeypatch.setattr(cpu.reference, name, None)
    wide = [
        tensor.detach().to(dtype).float()
        for tensor in inputs(torch.Generator().manual_seed(0), (2, 3), 24, 32, 8, 8)
    ]
    answers = []
    for tensors in ([tensor.to(dtype) for tensor in wide], wide):
        leaves = [tensor.requires_grad_() for tensor in tensors]
        out = attention(*leaves)
        answers.append([out, *torch.autograd.grad(out.sum(), leaves)])
    eps = torch.finfo(dtype).eps
    for narrow, exact in zip(*answers, strict=True):
        assert narrow.dtype == dtype
        # one rounding of the output, which the backward pass reads too
        assert (narrow.float() - exact).norm() <= eps * exact.norm() * 2
