"""Offsets restore the masses of a mixture whose energies have different gauges at every noise level."""

import math

import pytest
import torch
from torch import nn

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.models import Denoiser, ResidualMLP
from edmfast.targets import Mixture, Tempered
from edmfast.targets.offsets import Offsets

SEEDS = 20
MASS = 0.3


class Gauged(nn.Module):
    """A model whose energy has a gauge that depends on the noise level."""

    exponent = 1.0

    def __init__(self, model, gauge):
        super().__init__()
        self.model, self.gauge = model, gauge

    def energy_and_score(self, x, sigma):
        energy, score = self.model.energy_and_score(x, sigma)
        return energy + self.gauge(torch.as_tensor(sigma, dtype=torch.float64)), score


def left_gauge(sigma):
    return 2 * torch.sin(3 * sigma.log())


def right_gauge(sigma):
    return 1.5 * torch.cos(sigma) + sigma.log()


@pytest.fixture(scope="module")
def disjoint():
    left = GaussianMixture([[-4.0, 0.0], [-3.0, 1.0]], [0.2, 0.5], [0.4, 0.6])
    right = GaussianMixture([[3.0, 0.0], [5.0, -1.0]], [0.4, 0.1], [0.3, 0.7])
    members = [Gauged(left, left_gauge), Gauged(right, right_gauge)]
    return Mixture(members, [MASS, 1 - MASS])


def mass_left(target, sigmas):
    result = smc.sample(target, (2,), sigmas, particles=500, populations=SEEDS, seed=3)
    mass = result.expectation(lambda x: (x[..., 0] < 0).double())
    return float(mass.mean()), float(mass.std() / math.sqrt(SEEDS))


# the test compares with the wrong masses, which warn
@pytest.mark.filterwarnings("ignore::edmfast.smc.GaugeWarning")
@pytest.mark.parametrize("options", [{}, {"ess_threshold": 1.0, "proposal": "noise_matched"}])
def test_masses_are_restored(disjoint, levels, tmp_path, options):
    sigmas = levels(30)
    mass, error = mass_left(disjoint, sigmas)
    assert abs(mass - MASS) > 10 * max(error, 0.01)
    table = smc.calibrate_offsets(
        disjoint, (2,), sigmas, particles=1000, populations=SEEDS, seed=1, **options
    ).offsets
    gauges = left_gauge(sigmas) - right_gauge(sigmas)
    values, errors = torch.tensor(table.values).double(), torch.tensor(table.errors).double()
    missed = (values[:, 0] - values[:, 1] - gauges) / errors.square().sum(1).sqrt()
    assert missed.abs().max() < 3
    assert 0 < errors[-1].max() < 0.05
    table.save(tmp_path / "offsets.json")
    mass, error = mass_left(disjoint.with_offsets(Offsets.load(tmp_path / "offsets.json")), sigmas)
    assert abs(mass - MASS) < 3 * error
    assert error < 0.02


def test_a_last_zero_has_no_offset_and_bad_members_are_refused(disjoint, levels):
    sigmas = [*levels(3).tolist(), 0.0]
    table = smc.calibrate_offsets(disjoint, (2,), sigmas, particles=20, populations=1).offsets
    assert table.sigmas == tuple(sigmas[:-1])
    assert set(sum(table.errors, ())) == {0.0}
    member = Tempered(disjoint, torch.ones(2))
    with pytest.raises(ValueError, match="one exponent per population"):
        smc.calibrate_offsets(Mixture([member, member]), (2,), sigmas)
    with pytest.raises(TypeError, match="no energy"):
        smc.calibrate_offsets(Mixture([Denoiser(ResidualMLP(2))]), (2,), sigmas)
