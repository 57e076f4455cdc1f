"""Test the exact energies, the known truth and the goals of the benchmark of controlled sampling."""

import math

import pytest
import torch

pytest.importorskip("sklearn.datasets", reason="needs scikit-learn (extra `demo`)")

from bench.studies.control import images
from bench.studies.control.digits import plus_minus, variance
from bench.studies.control.models import WIDTH, DigitsDensity
from bench.studies.control.tasks import PARTICLES, TASKS
from edmfast.analytic import GaussianMixture
from edmfast.demo.digits import Digits


@pytest.fixture(scope="module")
def few():
    """Return forty images, four of each of ten labels."""
    generator = torch.Generator().manual_seed(0)
    pictures = 0.5 * torch.randn(40, 1, 8, 8, generator=generator)
    return Digits(pictures, torch.arange(40) % 10)


def test_density_is_the_mixture_of_its_class(few):
    density = DigitsDensity(few, WIDTH)
    x = few.images[:20] + 0.3
    for label in (4, 10):
        chosen = few.images[(few.labels == label) | (label == 10)].flatten(1)
        mixture = GaussianMixture(chosen.double(), [WIDTH] * len(chosen))
        labels = torch.full((20,), label)
        for sigma in (0.05, 1.0):
            values = density.energy_and_score(x.double(), sigma, class_label=labels)
            for actual, expected in zip(
                values, mixture.energy_and_score(x.double(), sigma), strict=True
            ):
                torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
            denoised = density(x.double(), sigma, class_label=labels)
            torch.testing.assert_close(denoised, mixture(x.double(), sigma), rtol=1e-4, atol=1e-4)


def test_pair_draws_follow_the_product(few):
    """The moments of p(x | a) p(x | b) come from importance sampling from p(x | a)."""
    near = Digits(few.images * 0.1, few.labels)
    density = DigitsDensity(near, WIDTH)
    generator = torch.Generator().manual_seed(1)
    drawn = density.pair_draws(3, 8, 4000, generator)
    means = near.images[near.labels == 3].flatten(1).double()
    x = GaussianMixture(means, [WIDTH] * len(means)).sample(40_000, seed=2)
    others = near.images[near.labels == 8].flatten(1).double()
    log_weights = GaussianMixture(others, [WIDTH] * len(others)).log_prob(x)
    weights = torch.softmax(log_weights, 0)
    ess = float(1 / weights.square().sum())
    mean, error = weights @ x, WIDTH * math.sqrt(1 / ess + 1 / 4000)
    assert float((drawn.flatten(1).mean(0) - mean).abs().max()) < 4.5 * error
    spread = drawn.flatten(1).var(0).mean()
    assert float(spread) == pytest.approx(float((weights @ (x - mean).square()).mean()), rel=0.1)


def test_a_run_and_its_numbers(few):
    density = DigitsDensity(few, WIDTH)
    for task in TASKS:
        fitted = images.calibration(task, density, 16, 16)
        result = images.run(task, density, fitted, 0.3, 2, seed=0)
        assert result.x.shape == (2 * len(task.pairs), PARTICLES, 1, 8, 8)
        total = variance(result)
        parts = variance(result, 0.3) + variance(result, 0.0, 0.3)
        torch.testing.assert_close(parts, total)
        assert (images.ancestors(result) <= 100).all()
        assert (images.lowest_ess(result, 0.3) > 0).all()
    assert plus_minus(torch.tensor([1.0, 3.0])) == "2 ± 1"
