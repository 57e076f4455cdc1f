"""Provide targets, noise levels and exact answers to the tests of sequential Monte Carlo."""

import math

import pytest
import torch

from edmfast.analytic import GaussianMixture
from edmfast.targets import Tempered


@pytest.fixture
def two_modes():
    """Return a mixture of a narrow and a wide mode of equal mass."""
    return GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), [0.15, 0.45], [0.5, 0.5])


@pytest.fixture
def levels():
    def make(steps, low=0.02, high=20.0):
        ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        return (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7

    return make


@pytest.fixture
def cold(two_modes):
    return Tempered(two_modes, 2.0)


@pytest.fixture
def start_log_normaliser():
    """Return the log of the integral of exp(-A |x|²/(2 sigma²)) over d dimensions, as a function."""
    return lambda sigma, exponent, d: 0.5 * d * math.log(2 * math.pi * sigma**2 / exponent)


@pytest.fixture(scope="session")
def square_of():
    """Return a function that squares the density of a mixture at one noise level.

    It gives the square, normalised, as a mixture of the products of the components, and the log of its integral.
    """

    def make(mixture, sigma):
        v, w, means = mixture.stds.square() + sigma**2, mixture.weights, mixture.means
        i, j = torch.cartesian_prod(torch.arange(len(v)), torch.arange(len(v))).unbind(1)
        both = v[i] + v[j]
        gap = (means[i] - means[j]).square().sum(1)
        log_mass = torch.log(w[i] * w[j]) - gap / (2 * both)
        log_mass = log_mass - 0.5 * means.shape[1] * torch.log(2 * math.pi * both)
        centres = (v[j, None] * means[i] + v[i, None] * means[j]) / both[:, None]
        squared = GaussianMixture(centres, (v[i] * v[j] / both).sqrt(), torch.softmax(log_mass, 0))
        return squared, float(torch.logsumexp(log_mass, 0))

    return make
