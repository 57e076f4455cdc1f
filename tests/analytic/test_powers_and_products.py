"""Powers and products of mixtures are exact: densities, log Z, masses of components, and draws."""

import pytest
import torch

from edmfast.analytic import GaussianMixture, MixtureOfGaussians
from tests.mixtures import F64, mixture, states

SIGMA = 0.3


def grid():
    axis = torch.linspace(-9, 9, 361, dtype=F64)
    return torch.cartesian_prod(axis, axis), (axis[1] - axis[0]) ** 2


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(("components", "dim"), [(1, 3), (4, 2), (3, 8)])
def test_a_power_is_the_power_of_the_density(n, components, dim):
    target = mixture(components, dim)
    result = target.power(n, SIGMA)
    x, _ = states(dim)
    expected = n * target.log_prob(x, SIGMA)
    actual = result.log_prob(x) + result.log_normaliser
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    same = target.at(SIGMA).power(n)
    assert abs(same.log_normaliser - result.log_normaliser) < 1e-10
    if n == 2:
        assert len(result.weights) == components * (components + 1) // 2


def test_a_product_is_the_product_of_the_densities():
    first, second = mixture(3, 5), mixture(2, 5, seed=9)
    result = first.product(second, SIGMA)
    x, _ = states(5)
    expected = first.log_prob(x, SIGMA) + second.log_prob(x, SIGMA)
    actual = result.log_prob(x) + result.log_normaliser
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    square = first.product(first, SIGMA)
    assert abs(square.log_normaliser - first.power(2, SIGMA).log_normaliser) < 1e-10


def test_log_z_is_the_integral():
    first, second = mixture(3, 2), mixture(4, 2, seed=9)
    x, cell = grid()
    for n in (2, 3):
        integral = (n * first.log_prob(x, SIGMA)).exp().sum() * cell
        assert abs(integral.log().item() - first.power(n, SIGMA).log_normaliser) < 1e-9
    integral = (first.log_prob(x, SIGMA) + second.log_prob(x, SIGMA)).exp().sum() * cell
    assert abs(integral.log().item() - first.product(second, SIGMA).log_normaliser) < 1e-9


def test_masses_of_factors_are_mean_responsibilities():
    first, second = mixture(3, 2), mixture(4, 2, seed=9)
    x, cell = grid()

    def mean(result, factor):
        density = result.log_prob(x).exp() * cell
        return (density[:, None] * factor.responsibilities(x, SIGMA)).sum(0)

    for n in (2, 3):
        power = first.power(n, SIGMA)
        (masses,) = power.factor_masses
        torch.testing.assert_close(masses, mean(power, first), rtol=1e-8, atol=1e-9)
    product = first.product(second, SIGMA)
    for masses, factor in zip(product.factor_masses, (first, second), strict=True):
        torch.testing.assert_close(masses, mean(product, factor), rtol=1e-8, atol=1e-9)
    assert first.factor_masses == ()
    assert first.log_normaliser == 0


def test_draws_of_a_power_estimate_its_masses():
    target = mixture(4, 3)
    power = target.power(2, SIGMA)
    shares = target.responsibilities(power.sample(20_000, seed=1), SIGMA)
    error = shares.std(0) / len(shares) ** 0.5
    assert ((shares.mean(0) - power.factor_masses[0]) / error).abs().max() < 4


def test_a_level_becomes_part_of_the_covariances():
    target = mixture(3, 4, classes=[0, 1, 0])
    x, sigma = states(4)
    torch.testing.assert_close(
        target.at(0.5).log_prob(x, sigma), target.log_prob(x, (sigma.square() + 0.25).sqrt())
    )
    assert torch.equal(target.at(0.5).classes, target.classes)
    assert torch.equal(target.at(0.0).covariances, target.covariances)


def test_negligible_pairs_stay_finite():
    target = MixtureOfGaussians([[-60.0], [60.0]], [[[0.01]], [[0.02]]], [1.0, 0.0])
    power = target.power(2)
    assert power.weights.tolist() == [1.0, 0.0, 0.0]
    assert power.log_prob(torch.tensor([[-60.0]], dtype=F64)).isfinite().all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: p.power(0), ValueError, "n must be an integer of at least 1"),
        (lambda p: p.power(1.5), TypeError, "n must be an integer"),
        (lambda p: p.power(2, -1.0), ValueError, "sigma must be"),
        (lambda p: p.power(10_000), ValueError, "components in 8 dimensions"),
        (lambda p: p.product(mixture(2, 3)), ValueError, "given 8 and 3"),
        (lambda p: p.product(GaussianMixture([[0.0] * 8], [1.0])), TypeError, "GaussianMixture"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(mixture(3, 8))
