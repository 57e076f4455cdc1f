"""The residual of the heat equation is zero for exact energies and has a closed form for a wrong one."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.analytic import GaussianMixture
from edmfast.diagnostics import fokker_planck, noising_trajectory
from edmfast.models import EnergyModel
from edmfast.models.backbones import ResidualMLP
from edmfast.targets import Tempered

LEVELS = [4.0, 1.0, 0.3]
MIXTURE = GaussianMixture([[-1.0, 0.5, 0], [1.0, 0.0, 0.2]], [0.2, 0.5], [0.3, 0.7])


class Wide:
    """N(0, I) with `excess` times the noise, which is wrong unless excess is 1; sigma may be detached."""

    exponent = 1.0

    def __init__(self, excess=1.0, gauge=0.0, detached=False):
        self.excess, self.gauge, self.detached = excess, gauge, detached

    def energy_and_score(self, x, sigma):
        level = torch.as_tensor(sigma, dtype=x.dtype).expand(len(x))
        level = level.detach() if self.detached else level
        variance = 1 + self.excess * level**2
        energy = x.square().sum(1) / (2 * variance) + x.shape[1] / 2 * variance.log()
        return energy + self.gauge * level**3, -x / variance[:, None]


def states(n=50, d=3):
    data = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noising_trajectory(data, LEVELS)


@pytest.mark.parametrize("derivative", ["auto", "difference"])
def test_vanishes_for_an_exact_energy(derivative):
    result = fokker_planck(MIXTURE, states(), LEVELS, sigma_derivative=derivative)
    assert result.residuals.shape == (3, 50)
    # At the smallest level the terms of the residual are about 10.
    error = result.sigma_error + 1e-10
    assert (result.residuals.abs() <= error).all()
    assert float(error.max()) < 1e-3
    assert (result.trace_error == 0).all()


def test_a_gauge_moves_only_the_mean():
    result = fokker_planck(Wide(gauge=2.0), states(), LEVELS)
    expected = -6.0 * torch.tensor(LEVELS, dtype=torch.float64) ** 2
    torch.testing.assert_close(result.mean, expected, rtol=1e-10, atol=0)
    assert result.sd.max() < 1e-12
    assert result.centred.abs().max() < 1e-12


@pytest.mark.parametrize("detached", [False, True])
def test_a_wrong_energy_has_its_closed_form(detached):
    excess = 1.3
    points = states()
    result = fokker_planck(Wide(excess, detached=detached), points, LEVELS)
    for i, sigma in enumerate(LEVELS):
        variance = 1 + excess * sigma**2
        squares = points[i].square().sum(1)
        expected = sigma * (excess - 1) / variance**2 * (squares - 3 * variance)
        torch.testing.assert_close(result.residuals[i], expected, rtol=1e-6, atol=1e-6)
        assert float(result.sd[i]) > 0.01
    assert bool((result.sigma_error > 0).all()) == detached


def test_probes_are_unbiased_and_state_their_error():
    points = states()
    exact = fokker_planck(Wide(1.3), points, LEVELS)
    assert fokker_planck(Wide(1.3), points, LEVELS, probes=1).trace_error.isnan().all()
    # The Hessian of an isotropic Gaussian is a multiple of the identity, for which probes of signs have no error.
    gaussian = fokker_planck(Wide(1.3), points, LEVELS, probes=2)
    torch.testing.assert_close(gaussian.residuals, exact.residuals, rtol=1e-9, atol=1e-12)
    runs = [fokker_planck(MIXTURE, points, LEVELS, probes=16, seed=9 * k) for k in range(20)]
    residuals = torch.stack([run.residuals for run in runs])
    stated = torch.stack([run.trace_error for run in runs])
    assert float(stated.max()) > 0.1
    assert abs(float(residuals.sum())) < 3 * float(stated.square().sum().sqrt())
    assert float(residuals.square().sum() / stated.square().sum()) == pytest.approx(1, abs=0.3)


def test_differences_in_float32_stay_within_their_stated_error():
    points = [x.float() for x in states()]
    result = fokker_planck(MIXTURE, points, LEVELS, sigma_derivative="difference")
    assert (result.residuals.abs() <= result.sigma_error + 1e-3).all()
    assert result.sigma_error.max() < 0.05


def test_autograd_and_differences_agree_for_a_network():
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(3, width=32, depth=2)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    points = states(8)
    by_graph = fokker_planck(model, points, LEVELS, sigma_derivative="autograd")
    by_steps = fokker_planck(model, points, LEVELS, sigma_derivative="difference")
    gap = (by_graph.residuals - by_steps.residuals).abs()
    assert (gap <= by_steps.sigma_error + 1e-9).all()
    assert gap.max() < 1e-3
    assert by_graph.sd.min() > 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": [1.0, 0.0, 0.3]}, "sigmas must be positive"),
        ({"sigmas": [1.0]}, "1 sigmas need as many states, got 3"),
        ({"probes": 0}, "probes must be an integer of at least 1, got 0"),
        ({"sigma_derivative": "guess"}, "sigma_derivative must be"),
        ({"model": Tempered(MIXTURE, 2.0)}, r"exponent 1, got 2\.0"),
        ({"model": Wide(detached=True), "sigma_derivative": "autograd"}, "no derivative"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {"model": MIXTURE, "states": states(4), "sigmas": LEVELS} | change
    with pytest.raises(ValueError, match=message):
        fokker_planck(
            arguments.pop("model"), arguments.pop("states"), arguments.pop("sigmas"), **arguments
        )


def test_a_score_without_a_graph_is_refused():
    class Detached(Wide):
        def energy_and_score(self, x, sigma):
            return tuple(t.detach() for t in super().energy_and_score(x, sigma))

    with pytest.raises(ValueError, match="Detached returns a score without a graph"):
        fokker_planck(Detached(), states(4), LEVELS)


def test_probes_are_independent_of_the_noise_in_the_states():
    """States and probes with the same seed are independent; from one counter the mean would be off by 0.4."""
    mixture = GaussianMixture(torch.zeros(2, 80), [0.1, 0.25], [0.5, 0.5])
    levels = [1.0, 0.9]
    states = noising_trajectory(mixture.sample(600, seed=1), levels, seed=0)
    result = fokker_planck(mixture, states, levels, probes=1, seed=0)
    assert (result.mean.abs() < 4 * result.sd / math.sqrt(600)).all()


@pytest.mark.parametrize("probes", [None, 2])
def test_an_empty_batch(probes):
    assert fokker_planck(MIXTURE, [torch.empty(0, 3)], [0.5], probes=probes).residuals.shape == (
        1,
        0,
    )
