"""Chi-square quantiles agree with closed forms, with tabulated values and with their distribution function."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast._internal.chi_square import chi_square_quantile, uniform_of_words

POWERS = 2.0 ** -torch.arange(1, 53, dtype=torch.float64)
TAILS = torch.cat([POWERS, 1 - POWERS[1:]])


def test_two_degrees_of_freedom_are_an_exponential():
    u = torch.cat([2.0 ** -torch.arange(1, 53).double(), torch.linspace(0.01, 0.99, 99).double()])
    expected = -2 * torch.log1p(-u)
    torch.testing.assert_close(chi_square_quantile(u, 2.0), expected, rtol=1e-13, atol=0)


def test_one_degree_of_freedom_is_a_squared_normal():
    u = torch.linspace(0.001, 0.999, 999).double()
    expected = torch.special.ndtri((1 + u) / 2).square()
    torch.testing.assert_close(chi_square_quantile(u, 1.0), expected, rtol=1e-10, atol=0)


# from the tables of Abramowitz and Stegun 1964, section 26.8: upper tail probabilities
@pytest.mark.parametrize(
    ("dof", "tail", "value"),
    [(1, 0.05, 3.84146), (3, 0.01, 11.3449), (10, 0.95, 3.94030), (100, 0.005, 140.169)],
)
def test_tabulated_values(dof, tail, value):
    u = torch.tensor([1 - tail], dtype=torch.float64)
    assert float(chi_square_quantile(u, dof)) == pytest.approx(value, rel=4e-6)


@pytest.mark.parametrize("dof", [0.3, 1.0, 5.0, 64.0, 2048.0, 1e6])
def test_the_distribution_function_of_a_quantile_is_its_probability(dof):
    x = chi_square_quantile(TAILS, dof)
    a = torch.full_like(x, dof / 2)
    below = torch.special.gammainc(a, x / 2)
    above = torch.special.gammaincc(a, x / 2)
    lower = TAILS <= 0.5
    torch.testing.assert_close(below[lower], TAILS[lower], rtol=1e-8, atol=0)
    torch.testing.assert_close(above[~lower], 1 - TAILS[~lower], rtol=1e-8, atol=0)
    order = TAILS.argsort()
    assert (x[order].diff() > 0).all()


def test_uniforms_of_words_lie_inside_the_unit_interval():
    words = torch.tensor([0, 2**32 - 1, 2**31, 1])
    u = uniform_of_words(words, words)
    assert u[0] == 2.0**-53
    assert u[1] == 1 - 2.0**-53
    assert 0.5 < u[2] < 0.5 + 1e-9
    assert math.isclose(float(u[3]), 2.0**-32, rel_tol=1e-5)
