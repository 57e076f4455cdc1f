"""A recomputed function has the derivatives of the plain one to every order, and keeps its tensors alone."""

import weakref

import pytest
import torch

from edmfast.models.recomputing.function import recomputed


def chain(x, w, b):
    h = torch.sin(x @ w) + b
    return h * x, torch.exp(0.3 * h), (h.detach() > 0).long()


def tensors():
    generator = torch.Generator().manual_seed(0)
    sizes = (3, 4), (4, 4), (4,)
    return [
        torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in sizes
    ]


def outputs(*values):
    first, second, sign = recomputed(chain, values)
    assert not sign.requires_grad
    return first, second


def test_derivatives_of_every_order():
    values = tensors()
    plain, again = chain(*values), recomputed(chain, values)
    assert all(map(torch.equal, plain, again))
    for order in range(1, 4):
        # all tensors are differentiated, and a cosine gives every number its own cotangent
        sums = [sum((part * part.cos()).sum() for part in parts[:2]) for parts in (plain, again)]
        plain, again = (torch.autograd.grad(total, values, create_graph=True) for total in sums)
        for expected, actual in zip(plain, again, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12, msg=str(order))


def test_gradcheck():
    assert torch.autograd.gradcheck(outputs, tensors())
    assert torch.autograd.gradgradcheck(outputs, tensors())


def test_only_requested_gradients_are_computed():
    """The score is a derivative by x alone, for which no gradient of the weights is computed."""
    values = tensors()
    products = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, w):
            return w.clone()

        @staticmethod
        def backward(ctx, cotangent):
            products.append(cotangent.shape)
            return cotangent

    def watched(x, w, b):
        return (torch.tanh(x @ Watched.apply(w)) + b,)

    (h,) = recomputed(watched, values)
    (score,) = torch.autograd.grad(h.sum(), values[0], create_graph=True)
    assert products == []
    torch.autograd.grad(score.square().sum(), values[:2])
    assert products != []


def test_unused_tensors_and_outputs_get_no_gradient():
    x, w, _ = tensors()
    ignored = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def function(x, w, ignored):
        return x.square(), w + 1, ignored.detach()

    first, _, third = recomputed(function, [x, w, ignored])
    grads = torch.autograd.grad(first.sum(), [x, w, ignored], create_graph=True, allow_unused=True)
    assert torch.equal(grads[0], 2 * x)
    assert grads[1:] == (None, None)
    # the second derivative by x is constant, and the third one is zero
    (curvature,) = torch.autograd.grad(grads[0].sum(), x, create_graph=True)
    assert torch.equal(curvature, torch.full_like(x, 2))
    (none,) = torch.autograd.grad(third.sum() + 0 * x.sum(), ignored, allow_unused=True)
    assert none is None or not none.any()


@pytest.mark.parametrize("derivatives", [1, 2])
def test_nothing_but_the_tensors_is_kept(derivatives):
    """The graph keeps bytes of the tensors and cotangents only, however long the function is."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, generator=generator, dtype=torch.float64).requires_grad_()

    def long(x):
        for _ in range(20):
            x = torch.sin(x) * torch.cos(x)
        return (x,)

    def kept(call):
        live = []

        class Packed:
            def __init__(self, tensor):
                self.tensor = tensor
                live.append(weakref.ref(self))

        with torch.autograd.graph.saved_tensors_hooks(Packed, lambda packed: packed.tensor):
            (y,) = call(x)
            if derivatives == 2:
                (y,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
        storages = (p.tensor.untyped_storage() for ref in live if (p := ref()) is not None)
        return sum({s.data_ptr(): s.nbytes() for s in storages}.values()), y

    plain, expected = kept(long)
    least, actual = kept(lambda x: recomputed(long, [x]))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)
    assert least <= derivatives * x.nbytes
    assert plain > 20 * derivatives * x.nbytes
