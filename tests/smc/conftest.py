import math

import pytest
import torch

from edmfast.models import Tempered
from edmfast.models.analytic import GaussianMixture


@pytest.fixture
def two_modes():
    """A narrow and a wide mode of equal mass."""
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
    """log of the integral of exp(-A |x|²/(2 sigma²)) over d dimensions."""
    return lambda sigma, exponent, d: 0.5 * d * math.log(2 * math.pi * sigma**2 / exponent)
