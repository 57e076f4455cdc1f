"""Widths, shares and inner products of power-function profiles agree with their integrals."""

import math

import numpy as np
import pytest
import torch

from edmfast.distill.averages.power_function import (
    WIDEST,
    gamma_of,
    inner_products,
    sigma_rel_of,
    weight_at,
)

POINTS, WEIGHTS = np.polynomial.legendre.leggauss(60)


def integral(function, end):
    """Return the integral of a function from 0 to end."""
    return float((WEIGHTS * function((POINTS + 1) * end / 2)).sum() * end / 2)


def profile(gamma, end):
    """Return the profile that ends at step `end`, as a function."""
    return lambda t: np.where(t <= end, (gamma + 1) * t**gamma / end ** (gamma + 1), 0.0)


@pytest.mark.parametrize("sigma_rel", [1e-6, 0.01, 0.05, 0.1, 0.2, 0.28, 0.3, WIDEST])
def test_gamma_and_width_are_inverse(sigma_rel):
    assert sigma_rel_of(gamma_of(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 6.94, 16.97, 1e3])
def test_width_and_gamma_are_inverse(gamma):
    assert gamma_of(sigma_rel_of(gamma)) == pytest.approx(gamma, rel=1e-9, abs=1e-9)


def test_gamma_of_the_published_widths_solves_the_cubic():
    for sigma_rel, gamma in ((0.05, 16.97), (0.10, 6.94)):
        root = gamma_of(sigma_rel)
        assert root == pytest.approx(gamma, abs=5e-3)
        cubic = [1, 7, 16 - sigma_rel**-2, 12 - sigma_rel**-2]
        assert root == pytest.approx(max(np.roots(cubic).real), rel=1e-10)


@pytest.mark.parametrize("gamma", [0.0, 2.5, 16.97])
def test_the_width_is_the_standard_deviation_of_the_profile(gamma):
    end = 7.0
    p = profile(gamma, end)
    mean = integral(lambda t: t * p(t), end)
    variance = integral(lambda t: (t - mean) ** 2 * p(t), end)
    assert integral(p, end) == pytest.approx(1, rel=1e-9)
    assert math.sqrt(variance) / end == pytest.approx(sigma_rel_of(gamma), rel=1e-9)


@pytest.mark.parametrize("gamma", [-0.3, 1.5, 16.97])
def test_the_recurrence_gives_each_step_its_share_of_the_profile(gamma):
    steps, shares = 9, np.zeros(9)
    for step in range(1, steps + 1):
        weight = weight_at(gamma, step)
        shares *= 1 - weight
        shares[step - 1] += weight
    edges = (np.arange(steps + 1) / steps) ** (gamma + 1)
    np.testing.assert_allclose(shares, np.diff(edges), rtol=1e-12, atol=1e-15)


def test_the_share_of_a_late_step_keeps_its_digits():
    assert weight_at(6.94, 10**15) == pytest.approx(7.94e-15, rel=1e-12)


def test_inner_products_are_integrals():
    rows = [(6.9, 10.0), (16.97, 25.0), (1.5, 40.0)]
    columns = [(3.2, 25.0), (6.9, 10.0)]
    arguments = [
        torch.tensor(column, dtype=torch.float64)
        for pairs in (rows, columns)
        for column in zip(*pairs, strict=True)
    ]
    found = inner_products(*arguments)
    for i, (gamma, end) in enumerate(rows):
        for j, (other, at) in enumerate(columns):
            first, second = profile(gamma, end), profile(other, at)
            wanted = integral(lambda t: first(t) * second(t), min(end, at))  # noqa: B023, it is called in this round only
            assert float(found[i, j]) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.31, math.nan, math.inf])
def test_widths_that_no_profile_has(sigma_rel):
    with pytest.raises(ValueError, match="sigma_rel must"):
        gamma_of(sigma_rel)


def test_a_gamma_without_a_profile():
    with pytest.raises(ValueError, match="gamma must be above -1, given -1"):
        sigma_rel_of(-1)
