"""Test that curvature matching keeps a population of handwritten digits alive, with exact kernel-density
energies.
"""

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.targets import Tempered

# These tiny runs have bad weights, which do not matter here.
pytestmark = pytest.mark.filterwarnings("ignore::edmfast.smc.DoubtfulWeightsWarning")

datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn (extra `demo`)")


@pytest.fixture(scope="module")
def digits():
    return torch.tensor(datasets.load_digits().data) / 8 - 1


def measure(digits, proposal, sigmas):
    density = GaussianMixture(digits, torch.full((len(digits),), 0.15))
    run = smc.sample(
        Tempered(density, 2.0),
        (64,),
        sigmas,
        particles=2000,
        proposal=proposal,
        options=smc.RunOptions(dtype=torch.float32),
    )
    nearest = torch.cdist(run.x[0].double(), digits).argmin(1)
    return len(nearest.unique()), float(run.log_weight_sd[1:].square().sum())


def test_curvature_matching_keeps_the_digits(digits, levels):
    sigmas = levels(32, low=0.05)
    distinct, variance = measure(digits, "curvature_matched", sigmas)
    assert distinct >= 400
    assert variance <= 6
    distinct, variance = measure(digits, "euler", sigmas)
    assert distinct < 20
    assert variance > 300


def test_equalised_schedule_halves_the_variance(digits, levels):
    density = GaussianMixture(digits, torch.full((len(digits),), 0.15))
    calibration = smc.calibrate(
        Tempered(density.float(), 2.0), (64,), levels(32, low=0.05), particles=300, pilot_steps=96
    )
    distinct, variance = measure(digits, "curvature_matched", calibration)
    assert distinct >= 400
    assert variance <= 3
