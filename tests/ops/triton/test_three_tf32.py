"""Triton kernels with three TF32 products are as near to the truth as the formula with these products.

The interpreter multiplies float32 matrices exactly, so its products are replaced here by those of tensor cores. It
rehearses the bound that the tests of a GPU have, and shows that a single TF32 product exceeds it.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bench.harness.three_tf32 import ThreeTF32, product, rounded
from edmfast.ops.mlp_potential import reference
from tests.ops.triton.test_mlp_potential import doubled, draw

attention = pytest.importorskip("edmfast.ops.attention.triton_ops", exc_type=ImportError)
perceptron = pytest.importorskip("edmfast.ops.mlp_potential.triton_ops", exc_type=ImportError)


def as_on_tensor_cores(function, single, *inputs):
    """Run a function in which the interpreter multiplies float32 matrices as tensor cores do."""
    from triton.language import float32
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def dot(builder, a, b, d, precision, *rest):
        assert precision.name == "TF32x3", precision
        assert a.dtype.scalar == b.dtype.scalar == d.dtype.scalar == float32
        x, y, z = (torch.from_numpy(np.ascontiguousarray(each.data)) for each in (a, b, d))
        total = rounded(x) @ rounded(y) if single else product(x, y)
        return TensorHandle((total + z).numpy(), d.dtype.scalar)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "create_dot", dot)
        return function(*inputs)


def attend(q, k, v, grad):
    scale = q.shape[-1] ** -0.5
    out, lse = attention.attention(q, k, v, None, scale, False)
    return out, *attention.attention_backward(grad, q, k, v, out, lse, None, scale, False)


def attend_by_formula(dtype, q, k, v, grad):
    q, k, v = (tensor.to(dtype).requires_grad_() for tensor in (q, k, v))
    out = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v
    return out.detach(), *torch.autograd.grad(out, (q, k, v), grad.to(dtype))


def perceive(e, v, *operands):
    nothing = torch.empty(0)
    values = perceptron.mlp_potential(*operands, True)[:2]
    return *values, *perceptron.mlp_potential_backward(e, v, *operands, nothing, True, True)


def perceive_by_formula(dtype, e, v, *operands):
    wide = operands if dtype == torch.float32 else doubled(operands)
    e, v, nothing = e.to(dtype), v.to(dtype), torch.empty(0)
    values = reference.mlp_potential(*wide, True)[:2]
    return *values, *reference.mlp_potential_backward(e, v, *wide, nothing, True, True)


def inputs_of(name, generator):
    if name == "attention":
        return [
            torch.randn(1, 2, *s, generator=generator)
            for s in ((70, 64), (45, 64), (45, 40), (70, 40))
        ]
    size = (2, 37, 20, 40, 3, False, False)
    cotangents = [torch.randn(2, 37, *s, generator=generator) for s in ((), (20,))]
    return [*cotangents, *draw(size, generator)]


FUNCTIONS = {
    "attention": (attend, attend_by_formula),
    "mlp_potential": (perceive, perceive_by_formula),
}


def excess(ours, plain, truth):
    """Return the error of the worst output as a part of what is allowed."""
    parts = []
    for one, same, wanted in zip(ours, plain, truth, strict=True):
        size = wanted.abs().max().clamp(min=1.0)
        allowed = (
            2 * (same.double() - wanted).abs().max() + 8 * torch.finfo(torch.float32).eps * size
        )
        parts.append(float((one.double() - wanted).abs().max() / allowed))
    return max(parts)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_bound_holds_for_three_products_and_not_for_one(interpreter, generator, name):
    function, formula = FUNCTIONS[name]
    inputs = inputs_of(name, generator)
    truth = formula(torch.float64, *inputs)
    with ThreeTF32():
        plain = formula(torch.float32, *inputs)
    for single in (False, True):
        run = interpreter.submit(as_on_tensor_cores, function, single, *inputs)
        part = excess(run.result(timeout=120), plain, truth)
        assert (part > 10) if single else (part <= 1), part
