"""Test that runs avoid wrong answers that public samplers give silently.

Each test reproduces such an answer from the particles of one of our runs; it must fail the assertion that our run
passes.
"""

from __future__ import annotations

import math

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.targets import Tempered
from tests.grouped import grouped

GAMMA = 2.0
SIZE = {"particles": 1000, "populations": 20}


@pytest.fixture(scope="module")
def modes():
    """Return modes that count as 1/variance when squared, so the narrow one then holds nine tenths of the mass."""
    return GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), [0.15, 0.45], [0.5, 0.5])


def narrow(x):
    return (x[..., 0] < 0).double()


def narrow_mass(sigma):
    a, b = (1 / (std**2 + sigma**2) for std in (0.15, 0.45))
    return a / (a + b)


def check_mass(masses, sigma):
    """Check that estimates [P] agree with the true mass within three standard errors."""
    error = float(masses.std()) / math.sqrt(len(masses))
    assert abs(float(masses.mean()) - narrow_mass(sigma)) < 3 * error + 1e-3
    assert error < 0.03


def weighted(x, log_weights):
    return (torch.softmax(log_weights, 1) * narrow(x)).sum(1)


class Shifted:
    """A target with the same law, whose energies are higher by a constant."""

    def __init__(self, target, shift):
        self.target, self.exponent, self.shift = target, target.exponent, shift

    def energy_and_score(self, x, sigma):
        energy, score = self.target.energy_and_score(x, sigma)
        return energy + self.shift, score


def record(runs):
    return lambda info: runs.append((info["x"].clone(), info["log_weights"].clone()))


def test_score_scaling_alone_is_not_low_temperature(modes, levels):
    """Samplers that only multiply the score give every particle the same weight."""
    sigmas = levels(40)
    result = smc.sample(Tempered(modes, GAMMA), (2,), sigmas, **grouped(seed=3, **SIZE))
    scaled = smc.sample(
        Tempered(modes, GAMMA),
        (2,),
        sigmas,
        **grouped(proposal="euler", ess_threshold=0.0, sigma_range=(100.0, math.inf), **SIZE),
    )
    check_mass(result.expectation(narrow), float(sigmas[-1]))
    with pytest.raises(AssertionError):
        check_mass(narrow(scaled.x).mean(1), float(sigmas[-1]))


def test_weights_of_skipped_steps_are_kept(modes, levels):
    """The wrong estimate imitates adaptive resampling that uses only the last increment."""
    runs, sigmas = [], levels(40)
    smc.sample(
        Tempered(modes, GAMMA),
        (2,),
        sigmas,
        **grouped(ess_threshold=0.0, seed=1, callback=record(runs), **SIZE),
    )
    (_, before), (x, after) = runs[-2:]
    check_mass(weighted(x, after), float(sigmas[-1]))
    with pytest.raises(AssertionError):
        check_mass(weighted(x, after - before), float(sigmas[-1]))


@pytest.mark.parametrize("shift", [-1000.0, 1000.0])
def test_the_level_of_the_energy_is_free(modes, levels, shift):
    """With exp(-energy) clamped at 1e10, all weights are equal at -1000 and zero at 1000, which gives NaN."""
    runs, sigmas = [], levels(40)
    options = {"ess_threshold": 0.0, "seed": 1, "dtype": torch.float64, **SIZE}
    target = Tempered(modes, GAMMA)
    plain = smc.sample(target, (2,), sigmas, **grouped(**options))
    moved = smc.sample(
        Shifted(target, shift), (2,), sigmas, **grouped(callback=record(runs), **options)
    )
    x, log_weights = runs[-1]
    check_mass(moved.expectation(narrow), float(sigmas[-1]))
    torch.testing.assert_close(moved.log_z, plain.log_z - shift, rtol=0, atol=1e-9)
    clamped = log_weights.exp().clamp(max=1e10)
    with pytest.raises(AssertionError):
        check_mass((clamped * narrow(x)).sum(1) / clamped.sum(1), float(sigmas[-1]))


def test_every_population_decides_for_itself(modes, levels):
    result = smc.sample(
        Tempered(modes, GAMMA), (2,), levels(30), **grouped(ess_threshold=0.6, **SIZE)
    )

    def check(decisions):
        assert torch.equal(decisions[:-1], result.ess[:-1] < 0.6 * SIZE["particles"])

    check(result.resampled)
    together = result.ess.mean(1, keepdim=True) < 0.6 * SIZE["particles"]
    with pytest.raises(AssertionError):
        check(together.expand_as(result.ess))
