"""The study of log-densities: its bounds on the model of digits, and the solvers it compares with."""

import pytest
import torch

from bench.studies import density
from edmfast.analytic import MixtureOfGaussians


@pytest.fixture(scope="module")
def digits():
    return density.problem(states=60)


@pytest.mark.parametrize("probes", [0, 1])
def test_the_log_density_of_digits_at_64_levels(digits, probes):
    errors = density.of_path(digits, 64, probes)
    assert abs(float(errors.mean())) < 0.3
    # Exact traces leave hardly any spread.
    assert float(errors.std()) < (0.05 if probes == 0 else 1.5)


def test_the_rivals_are_right_where_they_must_be():
    one = MixtureOfGaussians(torch.zeros(1, 64), 0.3 * torch.eye(64)[None])
    x = one.sample(20, density.LOW, seed=0)
    problem = density.Problem(one, x, one.log_prob(x, density.LOW))
    errors = density.estimates(problem, 256, 0)
    for name, bound in [("ODE, Heun", 0.3), ("ODE, Runge–Kutta", 1e-3), ("reversals alone", 1e-6)]:
        assert float(errors[name].abs().max()) < bound, name
    # The error of Ito's formula falls with the number of levels.
    coarse = density.estimates(problem, 64, 0)["Itô's formula"]
    assert float(errors["Itô's formula"].abs().mean()) < 0.4 * float(coarse.abs().mean())
