"""Test the exact interpolant between mixtures of Gaussians: known numbers, identities, and averages."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast import analytic
from edmfast.interpolants import GaussianMixtureInterpolant, Interpolant
from tests.interpolants.two_mixtures import BASE, DATA

FLAT_BASE = analytic.GaussianMixture([[-1.0, 0.5], [2.0, 0.0]], [0.7, 0.4], [0.3, 0.7])
FULL_DATA = analytic.MixtureOfGaussians(
    [[0.0, 1.0], [1.5, -1.0]], [[[1.0, 0.3], [0.3, 0.5]], [[0.4, -0.1], [-0.1, 0.8]]], [0.6, 0.4]
)


@pytest.mark.parametrize(
    ("t", "x", "drift", "score", "log_prob"),
    [
        (0.3, 1.0, -5.062875117, -0.916374312, -2.420443473),
        (0.5, -2.0, -3.034819697, 1.201370031, -1.879175861),
    ],
)
def test_the_numbers_of_the_test_problem(t, x, drift, score, log_prob):
    mixture = GaussianMixtureInterpolant(BASE, DATA)
    state = torch.tensor([[x]], dtype=torch.float64)
    both = mixture.drift_and_score(state, t)
    assert float(both[0]) == pytest.approx(drift, abs=5.1e-10)
    assert float(both[1]) == pytest.approx(score, abs=5.1e-10)
    assert float(mixture.log_prob(state, t)) == pytest.approx(log_prob, abs=5.1e-10)
    gamma, product = math.sqrt(t * (1 - t)), 0.5 * (1 - 2 * t)
    assert float(mixture.noise(state, t)) == pytest.approx(-gamma * score, abs=1e-9)
    assert float(mixture.velocity(state, t)) == pytest.approx(drift + product * score, abs=1e-9)


INTERPOLANTS = [
    Interpolant(),
    Interpolant("trig", "bsquared"),
    Interpolant("encoding-decoding", "sinesquared"),
    Interpolant("linear", "zero"),
    Interpolant("mirror"),
    Interpolant("one-sided-linear"),
    Interpolant("one-sided-trig"),
]


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=str)
def test_score_and_drift_obey_their_equations(interpolant):
    """The score is the gradient of the log-density, and the continuity equation holds."""
    base = None if interpolant.one_sided else FLAT_BASE
    mixture = GaussianMixtureInterpolant(base, FULL_DATA, interpolant)
    for time in (0.21, 0.5, 0.83):
        x = torch.randn(4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        t = torch.full((4,), time, dtype=torch.float64, requires_grad=True)
        x.requires_grad_()
        log_prob = mixture.log_prob(x, t)
        slope, rate = torch.autograd.grad(log_prob.sum(), (x, t))
        drift, score = mixture.drift_and_score(x, t)
        torch.testing.assert_close(score, slope, rtol=1e-10, atol=1e-10)
        divergence = sum(
            torch.autograd.grad(drift[:, k].sum(), x, retain_graph=True)[0][:, k] for k in (0, 1)
        )
        # d log p/dt + b . grad log p + div b = 0
        residual = rate + (drift * score).sum(1) + divergence
        assert residual.abs().max() < 1e-9


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=str)
def test_samples_have_the_density(interpolant):
    """The means of the score and of 1 + score * x vanish over exact draws, by partial integration."""
    base = None if interpolant.one_sided else FLAT_BASE
    mixture = GaussianMixtureInterpolant(base, FULL_DATA, interpolant)
    for time in (0.0, 0.37, 1.0):
        x = mixture.sample(20000, time, seed=4)
        score = mixture.score(x, time)
        for values in (score, 1 + score * x):
            error = values.std(0) / math.sqrt(len(x))
            assert (values.mean(0).abs() < 4.5 * error).all()


def test_times_of_rows_and_one_time_agree():
    mixture = GaussianMixtureInterpolant(FLAT_BASE, FULL_DATA)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rows = mixture.drift(x, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64))
    for k, t in enumerate((0.2, 0.5, 0.8)):
        torch.testing.assert_close(rows[k], mixture.drift(x, t)[k])
    shaped = mixture.drift(x.reshape(3, 1, 2), 0.5)
    torch.testing.assert_close(shaped, mixture.drift(x, 0.5).reshape(3, 1, 2))
    assert mixture.drift(x.float(), 0.5).dtype == torch.float32


def test_wrong_mixtures_are_named():
    with pytest.raises(ValueError, match="base must be None for the path 'mirror'"):
        GaussianMixtureInterpolant(BASE, DATA, Interpolant("mirror"))
    with pytest.raises(ValueError, match="base must be a mixture for the path 'linear'"):
        GaussianMixtureInterpolant(None, DATA)
    with pytest.raises(ValueError, match="one dimension D, given 2 and 1"):
        GaussianMixtureInterpolant(FLAT_BASE, DATA)
    with pytest.raises(TypeError, match="data must be a mixture with means"):
        GaussianMixtureInterpolant(BASE, torch.ones(3))
    mixture = GaussianMixtureInterpolant(BASE, DATA, Interpolant("encoding-decoding", "zero"))
    with pytest.raises(ValueError, match="singular at one of the times"):
        mixture.drift(torch.zeros(1, 1), 0.5)
    with pytest.raises(ValueError, match=r"prod\(shape\) = 1, given \[1, 2\]"):
        mixture.drift(torch.zeros(1, 2), 0.4)
