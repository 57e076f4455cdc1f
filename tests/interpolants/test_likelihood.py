"""Test log-likelihoods by the probability flow against exact log-densities."""

from __future__ import annotations

import math

import pytest
import torch

import edmfast
from edmfast import analytic
from edmfast.interpolants import (
    GaussianMixtureInterpolant,
    Interpolant,
    InterpolantModel,
    OneSidedModel,
    log_likelihood,
    to_velocity,
)
from tests.interpolants.two_mixtures import BASE, DATA
from tests.small_models import mlp

PLANE = analytic.GaussianMixture([[-1.5, 0.5], [1.0, -2.0]], [0.5, 0.8])
X = torch.tensor([[0.3, 1.0], [1.2, -1.5], [-3.0, 2.0]], dtype=torch.float64)


def test_two_mixtures_have_their_exact_density():
    mixture = GaussianMixtureInterpolant(BASE, DATA)
    x = torch.linspace(-8, 8, 33, dtype=torch.float64)[:, None]
    errors = []
    for steps in (100, 200):
        result = log_likelihood(
            mixture, x, torch.linspace(1, 0, steps + 1), base=BASE, method="rk4", disable=True
        )
        errors.append(float((result.log_prob - DATA.log_prob(x)).abs().max()))
    assert errors[1] < 1e-5
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.5)
    torch.testing.assert_close(result.end_log_prob, BASE.log_prob(result.end))
    torch.testing.assert_close(result.log_prob, result.end_log_prob + result.divergence)


def test_the_base_follows_from_the_data_too():
    mixture = GaussianMixtureInterpolant(BASE, DATA)
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)[:, None]
    result = log_likelihood(mixture, x, torch.linspace(0, 1, 201), base=DATA, method="rk4")
    torch.testing.assert_close(result.log_prob, BASE.log_prob(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", ["linear", "trig"])
@pytest.mark.parametrize("kind", ["model", "velocity"])
def test_a_denoiser_has_the_density_of_its_data(path, kind):
    if kind == "model":
        flow = OneSidedModel(PLANE, path, sigma_max=1e5)
    else:
        flow = to_velocity(PLANE, path=path, sigma_max=1e5)
    times = torch.linspace(1, 0, 101)
    result = log_likelihood(flow, X, times, method="rk4", disable=True)
    torch.testing.assert_close(result.log_prob, PLANE.log_prob(X), rtol=1e-4, atol=1e-4)
    shaped = log_likelihood(
        lambda x, t: flow_of(flow)(x.flatten(1), t).reshape(x.shape),
        X.reshape(3, 1, 2),
        times,
        method="rk4",
    )
    torch.testing.assert_close(shaped.log_prob, result.log_prob)
    assert shaped.end.shape == (3, 1, 2)


def flow_of(flow):
    return getattr(flow, "drift", flow)


def test_probes_estimate_the_exact_divergence():
    mixture = GaussianMixtureInterpolant(None, PLANE, Interpolant("one-sided-linear"))
    times = torch.linspace(1, 0, 41)
    exact = log_likelihood(mixture, X[:1], times, disable=True)
    many = log_likelihood(mixture, X[:1].expand(2000, 2), times, probes=1, seed=3, disable=True)
    error = many.log_prob.std() / math.sqrt(2000)
    assert error > 0
    assert (many.log_prob.mean() - exact.log_prob).abs() < 4.5 * error
    # the estimate is exact with as many probes as there are elements
    full = log_likelihood(mixture, X[:1], times, probes=2, disable=True)
    torch.testing.assert_close(full.log_prob, exact.log_prob)
    # the probes of a sample depend on the seed and its index alone
    part = log_likelihood(mixture, X[:1].expand(5, 2), times, probes=1, seed=3, disable=True)
    torch.testing.assert_close(part.log_prob, many.log_prob[:5])
    other = log_likelihood(mixture, X[:1].expand(5, 2), times, probes=1, seed=4, disable=True)
    assert not torch.equal(part.log_prob, other.log_prob)


def test_an_energy_model_in_float32_is_differentiated_twice():
    model = edmfast.EnergyModel(mlp())
    flow = OneSidedModel(model, sigma_max=50.0)
    result = log_likelihood(flow, X.float(), torch.linspace(0.99, 0, 9), probes=1, disable=True)
    assert result.end.dtype == torch.float32
    assert result.log_prob.dtype == torch.float64
    assert result.log_prob.isfinite().all()
    assert not result.log_prob.requires_grad


def test_bad_arguments_are_named():
    model = InterpolantModel(Interpolant(), drift=lambda x, t: x.detach())
    with pytest.raises(ValueError, match="returns a result without a graph"):
        log_likelihood(model, X, [1, 0])
    with pytest.raises(TypeError, match="base must have log_prob"):
        log_likelihood(lambda x, t: x, X, [1, 0], base=3)
    with pytest.raises(ValueError, match="a log-density must return one number for each row"):
        log_likelihood(lambda x, t: x, X, [1, 0], base=lambda x: x)
