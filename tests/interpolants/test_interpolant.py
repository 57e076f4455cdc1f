"""Test the coefficients of interpolants: their values, their derivatives, and their ends."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.interpolants import Interpolant
from edmfast.interpolants.interpolant import GAMMAS, ONE_SIDED, PATHS

ALL = [
    Interpolant(path, None if path in ONE_SIDED else gamma)
    for path in PATHS
    for gamma in (["brownian"] if path in ONE_SIDED else GAMMAS)
]


@pytest.mark.parametrize("interpolant", ALL, ids=str)
def test_derivatives_are_those_of_the_values(interpolant):
    t = torch.linspace(0.03, 0.97, 48, dtype=torch.float64).requires_grad_()
    at = interpolant.coefficients(t)
    for value, dot in ((at.a, at.a_dot), (at.b, at.b_dot), (at.gamma, at.gamma_dot)):
        expected = torch.zeros_like(t)
        if value.requires_grad:
            (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(dot.detach(), expected, rtol=1e-9, atol=1e-9)
    product = (at.gamma * at.gamma_dot).detach()
    torch.testing.assert_close(at.gamma_gamma_dot.detach(), product, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("interpolant", ALL, ids=str)
def test_the_ends_are_base_and_data(interpolant):
    start, end = interpolant.coefficients(0.0), interpolant.coefficients(1.0)
    if interpolant.path == "mirror":
        assert [float(c) for c in (start.b, start.gamma, end.b, end.gamma)] == [1, 0, 1, 0]
    elif interpolant.one_sided:
        assert [float(c) for c in (start.b, start.gamma, end.b, end.gamma)] == [0, 1, 1, 0]
    else:
        assert [float(c) for c in (start.a, start.b, start.gamma)] == [1, 0, 0]
        assert [float(c) for c in (end.a, end.b, end.gamma)] == [0, 1, 0]
    # the product is finite where the derivative of the Brownian bridge is not
    assert start.gamma_gamma_dot.isfinite()
    assert end.gamma_gamma_dot.isfinite()


def test_the_formulas_of_the_tables():
    t = 0.3
    at = Interpolant().coefficients(t)
    assert float(at.gamma) == pytest.approx(math.sqrt(0.21))
    assert float(at.gamma_gamma_dot) == pytest.approx(0.2)
    at = Interpolant("trig", "bsquared").coefficients(t)
    root = math.sqrt(1 - 0.21**2)
    assert float(at.a) == pytest.approx(root * math.cos(0.15 * math.pi))
    assert float(at.b) == pytest.approx(root * math.sin(0.15 * math.pi))
    at = Interpolant("encoding-decoding", "sinesquared").coefficients(t)
    assert float(at.a) == pytest.approx(math.cos(0.3 * math.pi) ** 2)
    assert float(at.b) == 0
    assert float(at.gamma) == pytest.approx(math.sin(0.3 * math.pi) ** 2)
    sigmoid = lambda u: 1 / (1 + math.exp(-u))  # noqa: E731, it is one formula
    expected = sigmoid(-1) - sigmoid(-3) - sigmoid(-4) + sigmoid(-6)
    at = Interpolant("mirror", "sigmoid").coefficients(t)
    assert float(at.gamma) == pytest.approx(expected, rel=1e-12)


def test_names_are_checked():
    assert Interpolant() == Interpolant("linear", "brownian")
    with pytest.raises(ValueError, match=r"path must be one of.*encoding-decoding"):
        Interpolant("straight")
    with pytest.raises(ValueError, match=r"gamma must be one of.*brownian"):
        Interpolant("linear", "cubic")
    with pytest.raises(ValueError, match="gamma must be None for the path 'one-sided-linear'"):
        Interpolant("one-sided-linear", "brownian")
    with pytest.raises(ValueError, match="t must be"):
        Interpolant().coefficients(1.5)
