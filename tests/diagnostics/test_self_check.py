"""Test the self-check of energies on Gaussian data, for which energy and score are known."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.diagnostics import ancestral_trajectory, noising_trajectory, self_check

WIDTH = 0.7


class GaussianEnergy:
    """N(0, WIDTH² I) with noise, an optional gauge, and an optional error of the energy."""

    exponent = 1.0

    def __init__(self, gauge=0.0, ripple=0.0):
        self.gauge, self.ripple = gauge, ripple

    def energy_and_score(self, x, sigma):
        variance = WIDTH**2 + sigma**2
        energy = x.square().sum(1) / (2 * variance) + x.shape[1] / 2 * math.log(variance)
        error = self.gauge * sigma + self.ripple * torch.sin(50 * x).sum(1)
        return energy + error, -x / variance


def levels(steps):
    return torch.logspace(1, -2, steps + 1, dtype=torch.float64)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    return WIDTH * torch.randn(4000, 3, dtype=torch.float64, generator=generator)


def test_one_step_by_hand():
    trajectory = [torch.tensor([[3.0]]).double(), torch.tensor([[1.0]]).double()]
    result = self_check(GaussianEnergy(), trajectory, [2.0, 1.0])
    wide, narrow = WIDTH**2 + 4, WIDTH**2 + 1
    score = -3.0 / wide
    drop = 9 / (2 * wide) + math.log(wide) / 2 - 1 / (2 * narrow) - math.log(narrow) / 2
    expected = drop - (score * (1.0 - 3.0) - 3.0 / 2 * score**2)
    assert float(result.residuals[0, 0]) == pytest.approx(expected, rel=1e-12)


def test_vanishes_with_the_step_on_both_kinds_of_trajectory(data):
    def measure(kind, steps):
        model = GaussianEnergy()
        if kind == "noising":
            states = noising_trajectory(data, levels(steps))
        else:
            start = noising_trajectory(data, levels(steps))[0]
            states = ancestral_trajectory(model, start, levels(steps))
        return self_check(model, states, levels(steps))

    for kind in ("noising", "ancestral"):
        coarse, fine = measure(kind, 100), measure(kind, 200)
        # The residual of a step is tr(H) tau² times a centred chi-square. Its sd halves with the
        # step, and its mean, of second order, becomes a quarter.
        assert float(fine.sd.max() / coarse.sd.max()) == pytest.approx(0.5, abs=0.05)
        assert float(fine.mean.abs().max()) < 0.35 * float(coarse.mean.abs().max())
        assert fine.sd.max() < 0.1


def test_a_gauge_moves_only_the_mean(data):
    states = noising_trajectory(data, levels(20))
    exact = self_check(GaussianEnergy(), states, levels(20))
    drifted = self_check(GaussianEnergy(gauge=2.0), states, levels(20))
    drift = 2.0 * (levels(20)[:-1] - levels(20)[1:])
    torch.testing.assert_close(drifted.mean - exact.mean, drift, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(drifted.sd, exact.sd, rtol=1e-9, atol=1e-12)


def test_an_energy_that_disagrees_with_its_score_shows_in_the_sd(data):
    states = noising_trajectory(data, levels(100))
    exact = self_check(GaussianEnergy(), states, levels(100))
    rippled = self_check(GaussianEnergy(ripple=0.5), states, levels(100))
    # At large sigma the ripple's phases at both ends are independent, with the variance 2 * 3 * 0.5² / 2.
    assert float(rippled.sd[0]) == pytest.approx(math.sqrt(0.75), rel=0.05)
    assert exact.sd[0] < 0.2


def test_noising_trajectory_has_the_right_law(data):
    sigmas = [3.0, 1.0, 0.5]
    states = noising_trajectory(data, sigmas)
    steps = torch.stack([states[2] - data, states[1] - states[2], states[0] - states[1]])
    variance = steps.square().mean((1, 2))
    expected = torch.tensor([0.25, 0.75, 8.0], dtype=torch.float64)
    torch.testing.assert_close(variance, expected, rtol=5 * math.sqrt(2 / 12000), atol=0)
    correlation = (steps[0] * steps[1]).mean() / math.sqrt(0.25 * 0.75)
    assert abs(float(correlation)) < 5 / math.sqrt(12000)


def test_sample_k_does_not_depend_on_the_batch(data):
    full_batch = noising_trajectory(data[:8], [3.0, 1.0], seed=2)
    part = noising_trajectory(data[:3], [3.0, 1.0], seed=2)
    assert all(torch.equal(a[:3], b) for a, b in zip(full_batch, part, strict=True))


@pytest.mark.parametrize(
    ("sigmas", "states"),
    [([1.0, 2.0], 2), ([1.0, 0.0], 2), ([1.0], 1), ([1.0, math.nan], 2), ([2.0, 1.0], 3)],
)
def test_bad_levels_and_states_are_refused(sigmas, states):
    with pytest.raises(ValueError, match="sigmas"):
        self_check(GaussianEnergy(), [torch.zeros(2, 3)] * states, sigmas)


def test_a_tempered_model_is_refused():
    model = GaussianEnergy()
    model.exponent = 2.0
    with pytest.raises(ValueError, match=r"exponent 1, got 2\.0"):
        self_check(model, [torch.zeros(2, 3)] * 2, [2.0, 1.0])
