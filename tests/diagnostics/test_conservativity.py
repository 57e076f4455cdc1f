"""Test the asymmetry of linear fields with a known Jacobian, and of nonlinear gradients."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.analytic import GaussianMixture
from edmfast.diagnostics import field_asymmetry, score_asymmetry

D = 5


def matrix(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(D, D, dtype=torch.float64, generator=generator)


def points(n):
    return torch.randn(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def test_symmetric_jacobian_is_zero_for_every_probe():
    symmetric = matrix() + matrix().T
    result = field_asymmetry(lambda x: x @ symmetric, points(10))
    assert result.normalised.max() < 1e-28
    assert result.overall < 1e-28


def test_rotation_is_one_for_every_probe():
    rotation = matrix() - matrix().T
    result = field_asymmetry(lambda x: x @ rotation, points(10))
    torch.testing.assert_close(result.normalised, torch.ones(10).double(), rtol=1e-12, atol=0)


def test_estimates_are_unbiased():
    jacobian = matrix()
    result = field_asymmetry(lambda x: x @ jacobian.T, points(4000), probes=2, seed=1)
    asymmetry = float((jacobian - jacobian.T).square().sum() / 2)
    squared_norm = float(jacobian.square().sum())
    for estimate, truth in ((result.asymmetry, asymmetry), (result.squared_norm, squared_norm)):
        assert abs(float(estimate.mean()) - truth) < 4 * float(estimate.std()) / math.sqrt(4000)
        assert float(estimate.std()) / math.sqrt(4000) < 0.02 * truth
    assert result.overall == pytest.approx(asymmetry / (2 * squared_norm), rel=0.03)
    assert (result.normalised >= 0).all()
    assert (result.normalised <= 1).all()


def test_nonlinear_gradient_field_is_conservative_and_its_twist_is_not():
    weight = matrix()

    def gradient(x):
        return torch.tanh(x @ weight) @ weight.T

    def twisted(x):
        return torch.tanh(x @ weight) @ weight

    assert field_asymmetry(gradient, points(20)).overall < 1e-25
    assert field_asymmetry(twisted, points(20)).overall > 0.05


def test_score_of_a_denoiser():
    jacobian = matrix()

    def model(x, sigma, *, scale):
        assert sigma.shape == (len(x),)
        return x + scale * sigma[:, None] ** 2 * (x @ jacobian.T)

    expected = field_asymmetry(lambda x: 3.0 * x @ jacobian.T, points(6), seed=4)
    result = score_asymmetry(model, points(6), 0.3, seed=4, scale=3.0)
    torch.testing.assert_close(result.asymmetry, expected.asymmetry, rtol=1e-10, atol=0)
    torch.testing.assert_close(result.squared_norm, expected.squared_norm, rtol=1e-10, atol=0)


def test_an_exact_model_is_conservative():
    model = GaussianMixture(matrix(), torch.full((D,), 0.4))
    for sigma in (0.2, 1.0, 5.0):
        assert score_asymmetry(model, points(6), sigma).overall < 1e-20


def test_zero_jacobian_counts_as_conservative():
    result = field_asymmetry(lambda x: 0 * x, points(3))
    assert result.overall == 0
    assert torch.equal(result.normalised, torch.zeros(3).double())


def test_works_inside_no_grad():
    with torch.no_grad():
        assert field_asymmetry(lambda x: x.flip(1) * x, points(3)).squared_norm.min() > 0


@pytest.mark.parametrize(
    ("field", "arguments", "message"),
    [
        (lambda x: x, {"probes": 0}, "probes must be an integer of at least 1, got 0"),
        (lambda x: x[:, :1], {}, r"keep the shape \(3, 5\), got \(3, 1\)"),
        (lambda x: x.detach(), {}, "differentiably"),
    ],
)
def test_a_bad_field_is_refused(field, arguments, message):
    with pytest.raises(ValueError, match=message):
        field_asymmetry(field, points(3), **arguments)


def test_a_bad_sigma_is_refused():
    with pytest.raises(ValueError, match=r"sigma must be positive and finite, got 0\.0"):
        score_asymmetry(lambda x, sigma: x, points(3), 0.0)
