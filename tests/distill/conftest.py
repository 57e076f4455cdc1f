"""Provide a small two-dimensional problem whose teacher is exact."""

import pytest
import torch

from edmfast.analytic import GaussianMixture
from edmfast.models import EnergyModel, ResidualMLP


@pytest.fixture(scope="session")
def teacher():
    return GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.15, 0.25], [0.3, 0.7])


@pytest.fixture(scope="session")
def data(teacher):
    return teacher.sample(2000, seed=1).float()


@pytest.fixture
def student():
    """Return a factory, each call of which makes the same fresh student."""

    def build(width=16, depth=2, num_classes=None):
        torch.manual_seed(0)
        backbone = ResidualMLP(2, width, depth, num_classes, embedding_width=8)
        return EnergyModel(backbone, sigma_data=0.9)

    return build
