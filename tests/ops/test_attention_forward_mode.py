"""Attention in forward mode agrees with float64 differences, and every combination with reverse mode is right."""

from __future__ import annotations

import pytest
import torch
import torch.autograd.forward_ad as forward_mode
from torch.func import grad, jacfwd, jvp, vmap

from edmfast.models.backbones.plain_attention import attend
from edmfast.models.backbones.self_attention import self_attention
from edmfast.ops import attention
from edmfast.ops.attention import forward_mode as implementation
from edmfast.ops.attention.composition import composed

DOUBLE, STEP = torch.float64, 1e-6


def make(generator, lead=(2, 3), length=5, keys=7, d=8, e=6, dtype=DOUBLE):
    """Return (q, k, v) and their tangents."""
    shapes = (*lead, length, d), (*lead, keys, d), (*lead, keys, e)

    def drawn():
        return tuple(torch.randn(s, generator=generator, dtype=DOUBLE).to(dtype) for s in shapes)

    return drawn(), drawn()


def differences(function, tensors, tangents):
    forth = function(*(x + STEP * t for x, t in zip(tensors, tangents, strict=True)))
    back = function(*(x - STEP * t for x, t in zip(tensors, tangents, strict=True)))
    return (forth - back) / (2 * STEP)


@pytest.fixture
def never_composed(monkeypatch):
    def refuse(*_):
        raise AssertionError("plain formulas ran where the operator should")

    monkeypatch.setattr(implementation, "composed", refuse)


@pytest.mark.usefixtures("never_composed", "poisoned")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("length", "keys"), [(1, 1), (5, 7), (40, 17), (129, 300)])
def test_tangents_equal_differences(generator, length, keys, masked, causal):
    tensors, tangents = make(generator, length=length, keys=keys)
    mask = torch.rand(2, keys, generator=generator) < 0.6 if masked else None

    def call(*operands):
        return attention(*operands, scale=0.4, causal=causal, key_mask=mask)

    wanted = differences(call, tensors, tangents)
    out, tangent = jvp(call, tensors, tangents)
    torch.testing.assert_close(out, call(*tensors), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(tangent, wanted, rtol=1e-6, atol=1e-7)
    with forward_mode.dual_level():
        duals = [forward_mode.make_dual(*pair) for pair in zip(tensors, tangents, strict=True)]
        again = forward_mode.unpack_dual(call(*duals)).tangent
    assert torch.equal(again, tangent)


@pytest.mark.usefixtures("never_composed")
@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_an_absent_tangent_is_zero(generator, which):
    tensors, tangents = make(generator)

    def call(*some):
        operands = list(tensors)
        for place, tensor in zip(which, some, strict=True):
            operands[place] = tensor
        return attention(*operands)

    chosen = [[all_of[i] for i in which] for all_of in (tensors, tangents)]
    _, tangent = jvp(call, *map(tuple, chosen))
    zeros = [t if i in which else torch.zeros_like(t) for i, t in enumerate(tangents)]
    _, wanted = jvp(attention, tensors, tuple(zeros))
    torch.testing.assert_close(tangent, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("never_composed")
def test_rows_without_keys_have_no_tangent(generator):
    tensors, tangents = make(generator)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1] = False
    out, tangent = jvp(lambda *t: attention(*t, key_mask=mask), tensors, tangents)
    assert not out[1].any()
    assert not tangent[1].any()
    assert tangent[0].all()


@pytest.mark.usefixtures("never_composed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_no_worse_than_the_plain_formula(generator, dtype):
    tensors, tangents = make(generator, length=33, keys=33, dtype=dtype)
    ours = jvp(attention, tensors, tangents)
    plain = jvp(lambda *t: composed(*t, None, 8**-0.5, False), tensors, tangents)
    doubles = [tuple(x.double() for x in part) for part in (tensors, tangents)]
    truth = jvp(attention, *doubles)
    for a, b, wanted in zip(ours, plain, truth, strict=True):
        assert a.dtype == dtype
        error = (a.double() - wanted).abs().max()
        assert error <= 2 * (b.double() - wanted).abs().max() + 1e-7


def test_blocks_of_queries(generator, monkeypatch):
    from edmfast.ops.attention import reference

    tensors, tangents = make(generator, lead=(5,), length=70, keys=50)
    whole = jvp(attention, tensors, tangents)[1]
    monkeypatch.setattr(reference, "_BLOCK", 1600)
    torch.testing.assert_close(jvp(attention, tensors, tangents)[1], whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", [attention, attend])
def test_gradients_of_tangents_are_right(generator, function):
    """Reverse mode over forward mode, by torch.func and by autograd, in a primal and in a tangent."""
    (q, k, v), (along, *_) = make(generator)

    def size(q, along, function=function):
        return jvp(lambda x: function(x, k, v), (q,), (along,))[1].square().sum()

    def plainly(q, along):
        return size(q, along, lambda *t: composed(*t, None, 8**-0.5, False))

    wanted = grad(plainly, argnums=(0, 1))(q, along)
    leaves = [tensor.clone().requires_grad_() for tensor in (q, along)]
    answers = (
        grad(size, argnums=(0, 1))(q, along),
        torch.autograd.grad(size(*leaves), leaves),
        (torch.autograd.grad(size(leaves[0], along), leaves[0])[0], wanted[1]),
        (wanted[0], torch.autograd.grad(size(q, leaves[1]), leaves[1])[0]),
    )
    for answer in answers:
        for ours, theirs in zip(answer, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_tangents_of_tangents_and_whole_jacobians_are_right(generator):
    (q, k, v), (along, *_) = make(generator, lead=(1,), length=2, keys=3, d=2, e=2)

    def ours(x):
        return attention(x, k, v)

    def plain(x):
        return composed(x, k, v, None, 2**-0.5, False)

    def twice(function):
        return jvp(lambda x: jvp(function, (x,), (along,))[1], (q,), (along,))[1]

    torch.testing.assert_close(twice(ours), twice(plain), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(jacfwd(ours)(q), jacfwd(plain)(q), rtol=1e-10, atol=1e-11)
    several = torch.stack([q, q + 1])
    tangents = jvp(vmap(ours), (several,), (several,))[1]
    wanted = jvp(vmap(plain), (several,), (several,))[1]
    torch.testing.assert_close(tangents, wanted, rtol=1e-10, atol=1e-11)


def test_a_gradient_of_the_operator_itself_raises(generator):
    tensors, tangents = make(generator)
    leaf = tensors[0].clone().requires_grad_()
    operator = torch.ops.edmfast.attention_jvp
    _, tangent = operator(*tangents, leaf, *tensors[1:], None, 0.3, False)
    with pytest.raises(RuntimeError, match="attention_jvp has no derivative"):
        tangent.sum().backward()


@pytest.mark.usefixtures("never_composed")
def test_self_attention_of_models_runs_the_operator(generator, monkeypatch):
    from edmfast.models.backbones import plain_attention

    qkv, along = (torch.randn(2, 5, 24, generator=generator, dtype=DOUBLE) for _ in range(2))

    def call(x):
        return self_attention(x, 2)

    wanted = differences(call, (qkv,), (along,))
    monkeypatch.setattr(plain_attention, "composed", implementation.composed)
    torch.testing.assert_close(jvp(call, (qkv,), (along,))[1], wanted, rtol=1e-6, atol=1e-7)
