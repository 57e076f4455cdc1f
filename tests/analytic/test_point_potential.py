"""The potential of PFGM++: its energy, its slope in sigma, and the denoiser that both give."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.analytic import GaussianMixture, PointPotential, PointSet
from edmfast.diagnostics import field_asymmetry
from edmfast.models import PotentialDenoiser
from edmfast.targets import Target
from tests.analytic.test_point_set import POINTS, WEIGHTS, X, states

DOFS = [1.0, 3.0, 64.0, math.inf]


def potential(dof):
    return PointPotential(POINTS, WEIGHTS, dof=dof)


class EnergyAlone:
    """An energy without a score and without a slope of its own."""

    def __init__(self, model):
        self.model = model

    def energy(self, x, sigma):
        return self.model.energy(x, sigma)


@pytest.mark.parametrize("dof", [1.0, 3.0, 64.0])
def test_the_energy_is_minus_the_logarithm_of_the_potential(dof):
    x, sigma = states(20)
    r = sigma * math.sqrt(dof)
    points, weights = (torch.tensor(t, dtype=torch.float64) for t in (POINTS, WEIGHTS))
    distances = (x[:, None] - points).square().sum(2)
    terms = (distances + r[:, None] ** 2) ** (-dof / 2)
    phi = (terms * weights).sum(1)
    expected = -phi.log() - dof * r.log()
    torch.testing.assert_close(potential(dof).energy(x, sigma), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dof", DOFS)
def test_score_and_slope_are_derivatives(dof):
    model, (x, sigma) = potential(dof), states(20)
    assert isinstance(model, Target)
    leaf, level = x.clone().requires_grad_(), sigma.clone().requires_grad_()
    gradient, slope = torch.autograd.grad(model.energy(leaf, level).sum(), (leaf, level))
    torch.testing.assert_close(model.energy_and_score(x, sigma)[1], -gradient)
    torch.testing.assert_close(model.energy_slope(x, sigma), slope)
    assert torch.autograd.gradcheck(model.energy_and_score, (leaf, level))


@pytest.mark.parametrize("dof", DOFS)
@pytest.mark.parametrize("wrapped", [lambda model: model, EnergyAlone])
def test_the_potential_gives_the_denoiser(dof, wrapped):
    x, sigma = states(20)
    model = potential(dof)
    denoiser = PotentialDenoiser(wrapped(model), dof=dof)
    expected = PointSet(POINTS, WEIGHTS, dof=dof)(x, sigma)
    torch.testing.assert_close(denoiser(x, sigma), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(model(x, sigma), expected, rtol=0, atol=0)
    assert not denoiser(x, sigma).requires_grad
    recorded = denoiser(x.clone().requires_grad_(), 0.5)
    (gradient,) = torch.autograd.grad(recorded.sum(), recorded, allow_unused=True)
    assert recorded.requires_grad
    assert gradient is not None


def test_the_field_of_the_potential_is_conservative():
    model = potential(1.0)
    assert field_asymmetry(lambda y: model.energy_and_score(y, 0.7)[1], X).overall < 1e-25
    denoiser = PotentialDenoiser(EnergyAlone(model), dof=1.0)
    measured = field_asymmetry(lambda y: denoiser(y, 0.7), X)
    assert float(measured.asymmetry) ** 0.5 == pytest.approx(0.1196, abs=5e-5)


def test_the_limit_is_the_energy_of_gaussian_noise():
    x, sigma = states(10)
    gaussian = GaussianMixture(POINTS, [1e-8] * 3, WEIGHTS).energy(x, sigma)
    gauge = 2 * (sigma * math.sqrt(2 * math.pi)).log()
    torch.testing.assert_close(potential(math.inf).energy(x, sigma), gaussian - gauge)
    torch.testing.assert_close(
        potential(1e7).energy(x, sigma), gaussian - gauge, rtol=1e-4, atol=1e-4
    )


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"N \+ dof must be above 2, given N = 1 and dof = 1"):
        PointPotential([[1.0]], dof=1.0)
    with pytest.raises(TypeError, match="energy must be a model"):
        PotentialDenoiser(lambda x, sigma: x, dof=1.0)
    denoiser = PotentialDenoiser(EnergyAlone(potential(1.0)), dof=1.0)
    with pytest.raises(ValueError, match="given states of 1 elements"):
        denoiser(torch.zeros(2, 1), 0.5)
    with pytest.raises(ValueError, match="sigma must be positive"):
        denoiser(torch.zeros(2, 2), 0.0)
