"""Products by three TF32 products keep the bound that is derived for them, and come close to it."""

from __future__ import annotations

import pytest
import torch

from bench.harness.three_tf32 import EPS, ThreeTF32, bound, cut, product, rounded


def error(a, b, ours):
    return (ours.double() - a.double() @ b.double()).abs()


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_numbers_of_tf32():
    x = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 2**-11 - EPS, -1 - 2**-11, 3e-39, 0.0])
    assert rounded(x).tolist() == [1.0, 1 + 2**-10, 1 + 2**-10, 1.0, -1 - 2**-10, *rounded(x[5:])]
    assert cut(x[:5]).tolist() == [1.0, 1 + 2**-10, 1.0, 1.0, -1.0]
    many = normal(10_000)
    assert ((rounded(many) - many).abs() <= 2**-11 * many.abs()).all()
    assert (rounded(many).view(torch.int32) % 2**13 == 0).all()
    # the low part has one bit too many, and loses it
    low = many - rounded(many)
    assert ((cut(low) - low).abs() <= EPS * many.abs()).all()


@pytest.mark.parametrize("length", [1, 3, 64, 300])
@pytest.mark.parametrize("leading", [(), (2,)])
def test_the_error_is_within_the_bound(leading, length):
    a, b = normal(*leading, 70, length), normal(*leading, length, 60, seed=1)
    assert (error(a, b, product(a, b)) <= bound(a, b)).all()


def test_a_single_product_comes_near_to_its_bound():
    """So the bound is no larger than it must be. A single TF32 product is far beyond it."""
    a, b = normal(3000, 1), normal(1, 3000, seed=1)
    part = (error(a, b, product(a, b)) / bound(a, b)).max()
    plain = (error(a, b, a @ b) / bound(a, b)).max()
    one = (error(a, b, rounded(a) @ rounded(b)) / bound(a, b)).max()
    assert 0.3 < part <= 1
    assert plain < 0.1
    assert one > 100


def test_sums_are_cut():
    """Adding ones to a large number loses them all, where rounding would keep some."""
    a, b = torch.full((1, 4000), 0.75), torch.ones(4000, 1)
    a[0, 0] = 2.0**24
    assert product(a, b).item() < float((a.double() @ b.double()).item()) - 900


def test_the_mode_reaches_derivatives():
    x, w = normal(9, 40).requires_grad_(), normal(40, 30, seed=1)

    def slope():
        (first,) = torch.autograd.grad((x @ w).square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        return second

    plain = slope()
    with ThreeTF32():
        ours = slope()
    wide = 8 * (x.double() @ w.double() @ w.double().mT) @ w.double() @ w.double().mT
    errors = [float((value.double() - wide).detach().abs().max()) for value in (plain, ours)]
    assert 2 * errors[0] < errors[1] < 100 * errors[0]
    with ThreeTF32():
        assert torch.equal(x.double() @ w.double(), x.double() @ w.double())
        added = torch.addmm(torch.ones(9, 30), x, w, beta=2, alpha=3)
        torch.testing.assert_close(added, 2 + 3 * product(x, w))
