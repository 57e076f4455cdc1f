"""The ODE, energies and path ratios agree with the exact log-density of a mixture, each within its error."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.evaluation import Likelihood, likelihoods
from edmfast.models import Denoiser, ResidualMLP
from tests.evaluation.models import Gauged, exact

F64 = torch.float64
LOW, HIGH = 0.1, 300.0
# a Gaussian of the variance HIGH² misses the spread of the data there by about DIM/2 (1.5/300)²
PRIOR_ERROR = 1e-4


@pytest.mark.parametrize("traced", [True, False])
def test_all_ways_agree_with_the_truth(traced):
    truth = exact()
    x, references = truth.sample(40, LOW, seed=0), truth.sample(12, LOW, seed=1)
    model = Gauged(truth, traced=traced)
    found = likelihoods(model, x, references, sigma_min=LOW, sigma_max=HIGH, seed=3)
    assert list(found) == ["ode", "energies", "paths"]
    exactly = truth.log_prob(x, LOW)
    for way, likelihood in found.items():
        difference, error = likelihood.minus(exactly)
        assert error < (0.01 if traced else 0.5), way
        assert abs(difference) < 3 * error + PRIOR_ERROR + (1e-3 if traced else 0), way
    # an energy is exact up to its constant, which is the noise of the references alone
    values = found["energies"].values - exactly
    assert float(values.std()) < 1e-9
    assert found["energies"].constant_error > 0


def test_a_class_has_a_constant_of_its_own():
    truth = exact(classes=[0, 1, 1])
    x, references = truth.sample(30, LOW, seed=0), truth.sample(30, LOW, seed=1)
    labels = truth.responsibilities(x).argmax(1).clamp(max=1)
    known = truth.responsibilities(references).argmax(1).clamp(max=1)
    found = likelihoods(
        Gauged(truth, traced=True),
        x,
        references,
        sigma_min=LOW,
        sigma_max=HIGH,
        condition={"class_label": labels},
        reference_condition={"class_label": known},
        paths=2,
        levels=96,
    )
    exactly = truth.log_prob(x, LOW, labels)
    for way, likelihood in found.items():
        difference, error = likelihood.minus(exactly)
        assert abs(difference) < 3 * error + 2e-3, way
    with pytest.raises(ValueError, match="label 0 has 1"):
        likelihoods(
            Gauged(truth, traced=True),
            x,
            references[:2],
            sigma_min=LOW,
            sigma_max=HIGH,
            condition={"class_label": labels},
            reference_condition={"class_label": torch.tensor([0, 1])},
        )


def test_a_wrong_energy_shows_in_its_own_way_alone():
    truth = exact()
    x, references = truth.sample(40, LOW, seed=0), truth.sample(12, LOW, seed=1)
    found = likelihoods(
        Gauged(truth, tilt=0.8, traced=True), x, references, sigma_min=LOW, sigma_max=HIGH
    )
    exactly = truth.log_prob(x, LOW)
    error = (found["energies"].values - exactly).std()
    assert float(error) == pytest.approx(0.8 * float(x[:, 0].std()), rel=1e-6)
    assert float((found["ode"].values - exactly).std()) < 0.01


def test_a_denoiser_has_no_energies():
    model = Denoiser(ResidualMLP(4, width=8, depth=1), sigma_data=1.0)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    names = []
    found = likelihoods(model, x, x, sigma_min=0.1, sigma_max=50.0, finished=names.append)
    assert list(found) == names == ["ode", "paths"]
    # at the start such a denoiser is that of N(0, 1)
    exactly = -x.square().sum(1) / (2 * 1.01) - 2 * math.log(2 * math.pi * 1.01)
    for likelihood in found.values():
        torch.testing.assert_close(likelihood.values, exactly.double(), atol=5e-3, rtol=0)


def test_batches_make_no_difference():
    truth = exact()
    x, references = truth.sample(10, LOW, seed=0), truth.sample(5, LOW, seed=1)
    whole, parts = (
        likelihoods(
            Gauged(truth), x, references, sigma_min=LOW, sigma_max=HIGH, batch_size=size, levels=8
        )
        for size in (None, 3)
    )
    for way in whole:
        torch.testing.assert_close(parts[way].values, whole[way].values, rtol=1e-9, atol=1e-9)


def test_the_errors():
    found = Likelihood(torch.tensor([1.0, 3.0], dtype=F64), 0.5, 7)
    assert found.mean == 2
    assert found.standard_error == pytest.approx(math.hypot(1, 0.5))
    assert found.minus(torch.tensor([0.0, 2.0])) == (1.0, 0.5)


def test_a_few_arguments_are_refused():
    truth = exact()
    with pytest.raises(ValueError, match=r"n >= 2, got \[1, 4\]"):
        likelihoods(truth, truth.sample(1, seed=0), sigma_min=LOW, sigma_max=HIGH)
    with pytest.raises(ValueError, match="sigma_min must be below sigma_max"):
        likelihoods(truth, truth.sample(2, seed=0), sigma_min=HIGH, sigma_max=LOW)
