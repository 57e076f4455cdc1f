"""The error of an energy is measured as it was planted: on p, on p² and between components."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.analytic import GaussianMixture, MixtureOfGaussians
from edmfast.diagnostics import energy_error

SIGMAS = [2.0, 0.5]
PAIR = GaussianMixture([[-20.0, 0.0], [20.0, 0.0]], [1.0, 1.0], [0.2, 0.8])


class Planted:
    """The energy of PAIR, with a known error and another gauge at each noise level."""

    def __init__(self, error):
        self.error = error

    def energy(self, x, sigma):
        return PAIR.energy(x, sigma) + self.error(x) + 7 / sigma


def of_square(count, sigma, seed):
    """Return draws of p²: the same modes, half the variance, and masses proportional to the squares."""
    variance = (1 + sigma**2) / 2
    means, stds = PAIR.means, [math.sqrt(variance)] * 2
    return GaussianMixture(means, stds, PAIR.weights.square()).sample(count, seed=seed)


def responsibilities(x, sigma):
    right = (x[:, 0] > 0).double()
    return torch.stack([1 - right, right], 1)


def measure(error, **options):
    squared = [of_square(20_000, sigma, seed=1) for sigma in SIGMAS]
    return energy_error(
        Planted(error), PAIR, SIGMAS, squared_draws=squared, count=20_000, **options
    )


def test_an_error_of_one_mode_is_found_between_components():
    found = measure(lambda x: 1.5 * (x[:, 0] > 0), responsibilities=responsibilities)
    share = 0.64 / 0.68
    for i in range(2):
        assert float(found.on_p[i]) == pytest.approx(1.5 * math.sqrt(0.2 * 0.8), rel=0.02)
        expected = 1.5 * math.sqrt(share * (1 - share))
        assert float(found.on_square[i]) == pytest.approx(expected, rel=0.04)
        assert float(found.between[i]) == pytest.approx(1.5 / math.sqrt(2), rel=1e-9)
    assert found.sigmas.tolist() == SIGMAS
    assert "between" in repr(found)


def test_an_error_within_modes_is_not_one_between_them():
    found = measure(lambda x: 0.8 * x[:, 1], responsibilities=responsibilities)
    for i, sigma in enumerate(SIGMAS):
        width = math.sqrt(1 + sigma**2)
        assert float(found.on_p[i]) == pytest.approx(0.8 * width, rel=0.02)
        assert float(found.on_square[i]) == pytest.approx(0.8 * width / math.sqrt(2), rel=0.02)
        # the two means differ only by their sampling error, sqrt(var/n_1 + var/n_2)/sqrt(2)
        assert float(found.between[i]) < 2 * 0.8 * width / math.sqrt(2 * 4000)


def test_the_sampling_error_of_component_means_is_subtracted():
    draws = [[PAIR.sample(120, sigma, seed=seed) for sigma in SIGMAS] for seed in range(60)]
    squares = []
    for states in draws:
        found = energy_error(
            Planted(lambda x: x[:, 1]),
            PAIR,
            SIGMAS,
            draws=states,
            responsibilities=responsibilities,
        )
        squares.append(found.between.square())
    # without the subtraction the mean would be (1/24 + 1/96)/2 = 0.026 times the variance
    mean = torch.stack(squares).mean(0) / torch.tensor([1 + s**2 for s in SIGMAS])
    assert bool((mean < 0.0195).all())


def test_a_mixture_of_gaussians_gives_its_own_draws_and_components():
    eye = torch.eye(2).expand(2, 2, 2)
    exact = MixtureOfGaussians(PAIR.means, eye, PAIR.weights)
    found = energy_error(Planted(lambda x: 1.5 * (x[:, 0] > 0)), exact, SIGMAS, count=8000)
    share = 0.64 / 0.68
    for i in range(2):
        assert float(found.on_p[i]) == pytest.approx(1.5 * math.sqrt(0.2 * 0.8), rel=0.03)
        expected = 1.5 * math.sqrt(share * (1 - share))
        assert float(found.on_square[i]) == pytest.approx(expected, rel=0.06)
        assert float(found.between[i]) == pytest.approx(1.5 / math.sqrt(2), rel=1e-9)


def test_an_exact_energy_has_no_error():
    found = energy_error(PAIR, PAIR, SIGMAS, responsibilities=responsibilities, count=100)
    assert found.on_p.tolist() == found.between.tolist() == [0.0, 0.0]
    # this mixture has no power(2), and no draws were passed
    assert bool(found.on_square.isnan().all())


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="2 sigmas need as many draws, got 1"):
        energy_error(PAIR, PAIR, SIGMAS, draws=[torch.zeros(3, 2)])
    with pytest.raises(ValueError, match=r"draws\[0\] must be \[B, \*shape\] with B >= 2"):
        energy_error(PAIR, PAIR, [1.0], draws=[torch.zeros(1, 2)])
    with pytest.raises(ValueError, match="Planted has no method sample"):
        energy_error(PAIR, Planted(lambda x: 0), SIGMAS)
    with pytest.raises(ValueError, match=r"\[B, K\] with B = 5, got \[5\]"):
        energy_error(PAIR, PAIR, [1.0], count=5, responsibilities=lambda x, sigma: x[:, 0])
    with pytest.raises(ValueError, match="at least one level"):
        energy_error(PAIR, PAIR, [])
    with pytest.raises(TypeError, match="has no energy"):
        energy_error(lambda x, sigma: x, PAIR, [1.0])


def test_a_square_of_too_many_components_names_the_way_out():
    class Huge(GaussianMixture):
        def power(self, n, sigma=0.0):
            raise ValueError("too many components")

    huge = Huge([[0.0]], [1.0])
    with pytest.raises(ValueError, match=r"squared_draws=.*"):
        energy_error(huge, huge, SIGMAS, count=10)
    squared = [torch.randn(10, 1)] * 2
    assert max(energy_error(huge, huge, SIGMAS, count=10, squared_draws=squared).on_p) < 1e-6
