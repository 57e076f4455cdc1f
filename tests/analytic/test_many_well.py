"""ManyWell agrees with adaptive quadrature, with autograd, and with the published normaliser."""

import math

import pytest
import torch
from scipy import integrate

from edmfast import analytic

LEVELS = [0.0, 0.003, 0.06, 0.124, 0.126, 0.5, 3.0, 40.0]


def well(y):
    return y**4 - 6 * y**2 - 0.5 * y


def integral(function, centre, width):
    """Integrate over the line a function that is smooth within `width` of a centre or of the wells."""
    points = [-1.7, 1.75, centre, centre - 4 * width, centre + 4 * width]
    inside = sorted({p for p in points if abs(p) < 6})
    value, _ = integrate.quad(function, -6, 6, points=inside, limit=400, epsabs=0, epsrel=1e-12)
    return value


def direct_energy(x, sigma):
    """Return the energy of x_1 in one well, by adaptive quadrature."""
    if sigma == 0:
        return well(x)
    lowest = min(
        well(y) + 0.5 * ((x - y) / sigma) ** 2 for y in (k / 1000 for k in range(-6000, 6001))
    )
    value = integral(lambda y: math.exp(lowest - well(y) - 0.5 * ((x - y) / sigma) ** 2), x, sigma)
    return lowest - math.log(value / (sigma * math.sqrt(2 * math.pi)))


@pytest.mark.parametrize("sigma", LEVELS)
def test_energy_agrees_with_adaptive_quadrature(sigma):
    target = analytic.ManyWell(2)
    first = [-2.5 - 4 * sigma, -2.1, -1.7, 0.0, 1.2, 1.75, 2.5, 2.5 + 5 * sigma]
    x = torch.tensor([[value, 0.7] for value in first], dtype=torch.float64)
    second = 0.5 * 0.49 / (1 + sigma**2) + 0.5 * math.log1p(sigma**2)
    exact = torch.tensor([direct_energy(value, sigma) + second for value in first], dtype=x.dtype)
    torch.testing.assert_close(target.energy(x, sigma), exact, rtol=0, atol=1e-10)


def test_normaliser_is_the_published_one():
    z = integrate.quad(lambda y: math.exp(-well(y)), -6, 6, epsabs=0, epsrel=1e-12, limit=400)[0]
    expected = 16 * (math.log(z) + 0.5 * math.log(2 * math.pi))
    assert abs(analytic.ManyWell(32).log_z - expected) < 1e-9
    assert abs(analytic.ManyWell(32).log_z - 164.6957) < 1e-4


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.2, 1.0, 10.0])
def test_mass_is_the_same_at_every_level(sigma):
    target = analytic.ManyWell(2)
    reach = 4 + 8 * sigma
    first = torch.linspace(-reach, reach, 4001, dtype=torch.float64)
    x = torch.stack([first, torch.zeros_like(first)], 1)
    # at x_2 = 0 the second factor is a Gaussian of mass sqrt(2 pi)
    peak = 1 / math.sqrt(1 + sigma**2)
    mass = (-target.energy(x, sigma)).exp().sum() * (first[1] - first[0]) / peak
    assert abs(math.log(mass * math.sqrt(2 * math.pi)) - target.log_z) < 1e-9


@pytest.mark.parametrize("sigma", LEVELS)
def test_score_is_the_gradient_and_tweedie_holds(sigma):
    target = analytic.ManyWell(6)
    x = (1.5 + sigma) * torch.randn(40, 6, dtype=torch.float64, generator=generator(0))
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target.energy(leaf, sigma).sum(), leaf)
    energy, score = target.energy_and_score(x, sigma)
    torch.testing.assert_close(score, -gradient, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(energy, target.energy(x, sigma), rtol=0, atol=0)
    torch.testing.assert_close(target(x, sigma), x + sigma**2 * score, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.4])
def test_differentiates_twice(sigma):
    target = analytic.ManyWell(4)
    x = torch.randn(2, 4, dtype=torch.float64, generator=generator(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: target.energy_and_score(y, sigma), x)
    assert torch.autograd.gradgradcheck(lambda y: target.energy_and_score(y, sigma), x)
    assert not target.energy_and_score(x.detach(), sigma)[1].requires_grad


def test_levels_per_row_and_float32():
    target = analytic.ManyWell(8)
    x = 2 * torch.randn(60, 8, dtype=torch.float64, generator=generator(2))
    sigma = torch.logspace(-2, 1.5, 60, dtype=torch.float64)
    energy, score = target.energy_and_score(x, sigma)
    for row in (0, 17, 30, 59):
        alone = target.energy_and_score(x[row : row + 1], float(sigma[row]))
        torch.testing.assert_close(alone[0][0], energy[row], rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(alone[1][0], score[row], rtol=1e-12, atol=1e-12)
    narrow_energy, narrow_score = target.energy_and_score(x.float(), sigma.float())
    torch.testing.assert_close(narrow_energy, energy.float(), rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(narrow_score, score.float(), rtol=1e-5, atol=1e-4)
    image, _ = target.energy_and_score(x.reshape(60, 2, 2, 2), sigma)
    assert torch.equal(image, energy)


def test_bits_of_a_row_do_not_depend_on_the_batch():
    target = analytic.ManyWell(32)
    x = torch.randn(90, 32, generator=generator(3))
    whole = target.energy_and_score(x, 0.3)
    for rows in (1, 7, 31, 32, 50):
        part = target.energy_and_score(x[:rows], 0.3)
        assert all(torch.equal(a, b[:rows]) for a, b in zip(part, whole, strict=True))


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_samples_follow_the_law(sigma):
    target, n = analytic.ManyWell(4), 40_000
    x = target.sample(n, sigma, seed=4)
    first, second = x[:, ::2].flatten(), x[:, 1::2].flatten()
    z = integral(lambda y: math.exp(-well(y) - 9), 0, 1)
    for power in (1, 2):
        clean = integral(lambda y, p=power: y**p * math.exp(-well(y) - 9), 0, 1) / z
        expected = clean + (sigma**2 if power == 2 else 0.0)
        values = first**power
        assert abs(values.mean() - expected) < 3 * values.std() / math.sqrt(2 * n)
    left = (first < 0).double().mean()
    spread = math.sqrt(target.left_mass(sigma) * (1 - target.left_mass(sigma)) / (2 * n))
    assert abs(left - target.left_mass(sigma)) < 3 * spread
    assert abs(second.var() / (1 + sigma**2) - 1) < 3 * math.sqrt(2 / (2 * n))
    # E[score] = 0 and E[score · x] = -dim hold only for samples from the density of the energy
    _, score = target.energy_and_score(x, sigma)
    inner = (score * x).sum(1)
    assert abs(inner.mean() + 4) < 3 * inner.std() / math.sqrt(n)
    assert torch.equal(x, target.sample(n, sigma, seed=4))
    assert not torch.equal(x, target.sample(n, sigma, seed=5))


def test_left_mass_by_quadrature():
    z = integral(lambda y: math.exp(-well(y)), 0, 1)
    left = integrate.quad(lambda y: math.exp(-well(y)), -6, 0, epsrel=1e-12)[0] / z
    assert abs(analytic.ManyWell(2).left_mass() - left) < 1e-8
    noised = integral(
        lambda y: math.exp(-well(y)) * 0.5 * math.erfc(y / (0.7 * math.sqrt(2))), 0, 0.7
    )
    assert abs(analytic.ManyWell(2).left_mass(0.7) - noised / z) < 1e-10


def test_wrong_arguments():
    with pytest.raises(ValueError, match="even and positive"):
        analytic.ManyWell(3)
    with pytest.raises(ValueError, match=r"prod\(shape\) = 4"):
        analytic.ManyWell(4).energy(torch.zeros(2, 6), 1.0)
    with pytest.raises(ValueError, match="n must be an integer of at least 0"):
        analytic.ManyWell(4).sample(-1, seed=0)


def generator(seed):
    return torch.Generator().manual_seed(seed)
