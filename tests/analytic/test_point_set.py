"""Points with Student-t noise: the values of the perfect denoiser of PFGM++, its flow, and its Gaussian limit."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.analytic import GaussianMixture, PointSet
from edmfast.diagnostics import field_asymmetry, score_asymmetry

POINTS, WEIGHTS = [[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.5, 0.3, 0.2]
X = torch.tensor([[0.3, 0.2]], dtype=torch.float64)
DOFS = [1.0, 3.0, 64.0, 128.0, math.inf]


def points(dof):
    return PointSet(POINTS, WEIGHTS, dof=dof)


def states(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = 1.5 * torch.randn(count, 2, generator=draw, dtype=torch.float64)
    return x, 0.2 + 2 * torch.rand(count, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize(
    ("dof", "denoised"),
    [
        (1, (0.61867288, -0.04014765)),
        (3, (0.62094205, -0.04233969)),
        (128, (0.63381516, -0.04588012)),
        (math.inf, (0.63459162, -0.04603963)),
    ],
)
def test_known_values(dof, denoised):
    expected = torch.tensor([denoised], dtype=torch.float64)
    torch.testing.assert_close(points(dof)(X, 0.7), expected, rtol=0, atol=5e-9)


@pytest.mark.parametrize("dof", DOFS)
def test_score_and_trace_are_derivatives(dof):
    model, (x, sigma) = points(dof), states(40)
    energy, score = model.energy_and_score(x, sigma)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model.log_prob(leaf, sigma).sum(), leaf)
    torch.testing.assert_close(score, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(energy, model.energy(x, sigma), rtol=0, atol=0)
    jacobian = torch.autograd.functional.jacobian(lambda y: model(y, sigma).sum(0), x)
    traces = jacobian.diagonal(dim1=0, dim2=2).sum(1)
    torch.testing.assert_close(model.jacobian_trace(x, sigma), traces, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dof", DOFS)
def test_the_flow_of_the_denoiser_carries_the_noised_law(dof):
    """The continuity equation d ln p/d sigma + grad ln p · v + div v = 0 holds for v = (x - D)/sigma."""
    model, (x, sigma) = points(dof), states(60)
    level = sigma.clone().requires_grad_()
    (change,) = torch.autograd.grad(model.log_prob(x, level).sum(), level)
    score = model.energy_and_score(x, sigma)[1]
    velocity = (x - model(x, sigma)) / sigma[:, None]
    divergence = (2 - model.jacobian_trace(x, sigma)) / sigma
    residual = change + (score * velocity).sum(1) + divergence
    assert residual.abs().max() < 1e-11


@pytest.mark.parametrize("dof", [2.5, 7.0])
def test_the_density_integrates_to_one(dof):
    # the map from the unit square to the plane reaches the heavy tails
    axis = (torch.arange(801, dtype=torch.float64) + 0.5) / 801 * 2 - 1
    place = axis / (1 - axis.square())
    slope = (1 + axis.square()) / (1 - axis.square()).square()
    grid = torch.cartesian_prod(place, place)
    area = torch.cartesian_prod(slope, slope).prod(1) * (2 / 801) ** 2
    mass = (points(dof).log_prob(grid, 0.5).exp() * area).sum()
    assert abs(float(mass) - 1) < 1e-4


def test_infinite_degrees_of_freedom_are_gaussian_noise():
    model, (x, sigma) = points(math.inf), states(30)
    # stds of 1e-8 stand for points
    gaussian = GaussianMixture(POINTS, [1e-8] * 3, WEIGHTS)
    torch.testing.assert_close(model(x, sigma), gaussian(x, sigma), rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(
        model.energy_and_score(x, sigma), gaussian.energy_and_score(x, sigma), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    large = points(1e6)
    torch.testing.assert_close(large(x, sigma), model(x, sigma), rtol=1e-4, atol=1e-5)
    # float32 keeps its digits at large D, where (N + D)/2 multiplies a small logarithm
    single = large(x.float(), sigma.float()).double()
    torch.testing.assert_close(single, large(x, sigma), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dof", "difference"), [(1, -0.1196), (3, -0.0702), (64, -0.0055)])
def test_the_denoiser_is_not_conservative(dof, difference):
    model = points(dof)
    jacobian = torch.autograd.functional.jacobian(lambda y: model(y, 0.7)[0], X)[:, 0]
    assert float(jacobian[0, 1] - jacobian[1, 0]) == pytest.approx(difference, abs=5e-5)
    # |J - J^T|²/2 in the plane is the square of that difference
    measured = field_asymmetry(lambda y: model(y, 0.7), X)
    assert float(measured.asymmetry) ** 0.5 == pytest.approx(abs(difference), abs=5e-5)
    score = score_asymmetry(model, X, 0.7)
    assert float(score.asymmetry) ** 0.5 * 0.49 == pytest.approx(abs(difference), abs=5e-5)
    assert score.overall > 0


def test_the_gaussian_limit_is_conservative():
    assert score_asymmetry(points(math.inf), *states(20)).overall < 1e-25


@pytest.mark.parametrize("dof", [3.0, math.inf])
def test_draws_have_the_noised_law(dof):
    """The responsibilities of draws average to the weights, and E D(x) = E x_0."""
    model = points(dof)
    x = model.sample(20_000, 0.8, seed=1)
    assert x.shape == (20_000, 2)
    expected = torch.tensor(WEIGHTS, dtype=torch.float64) @ torch.tensor(POINTS).double()
    assert (model(x, 0.8).mean(0) - expected).abs().max() < 4 / math.sqrt(20_000)
    clean = model.sample(1000, seed=1)
    assert torch.equal(clean.unique(dim=0), torch.tensor(POINTS).double().unique(dim=0))


def test_twice_differentiable_in_states_and_levels():
    model, (x, sigma) = points(3.0), states(4)
    x.requires_grad_()
    sigma.requires_grad_()
    assert torch.autograd.gradcheck(model.energy_and_score, (x, sigma))
    assert torch.autograd.gradgradcheck(model.energy_and_score, (x, sigma))
    assert not any(part.requires_grad for part in model.energy_and_score(x.detach(), 1.0))


def test_rows_do_not_depend_on_the_batch_and_shapes_are_kept():
    model, (x, sigma) = points(3.0), states(100)
    whole = model(x.float(), sigma)
    assert torch.equal(whole[:7], model(x[:7].float(), sigma[:7]))
    assert model(x.reshape(100, 1, 2), 1.0).shape == (100, 1, 2)
    assert model(x[:0], 1.0).shape == (0, 2)
    assert model(x.half(), 1.0).dtype == torch.float16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PointSet([1.0, 2.0]), r"points must be \[K, N\]"),
        (lambda: PointSet([[1.0]], [0.0]), "weights must not be negative"),
        (lambda: PointSet([[1.0]], dof=0.0), "dof must be positive"),
        (lambda: points(3.0)(torch.zeros(2, 3), 1.0), r"prod\(shape\) = 2, given \[2, 3\]"),
        (lambda: points(3.0)(torch.zeros(2, 2), 0.0), "sigma must be positive, given 0"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
