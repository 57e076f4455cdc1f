"""GaussianMixture agrees with the density written out in float64, and with autograd."""

import math

import pytest
import torch

from edmfast.analytic import GaussianMixture, gmm40

SIZES = [
    (1, 3, True),
    (3, 2, False),
    (5, 1, False),
    (200, 1, False),
    (30, 16, False),
    (90, 9, True),
]


def mixture(components, dim, shared, seed=0):
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(components, dim, generator=draw, dtype=torch.float64)
    stds = 0.1 + torch.rand(components, generator=draw, dtype=torch.float64)
    stds = stds[:1].expand(components) if shared else stds
    weights = torch.rand(components, generator=draw, dtype=torch.float64)
    return GaussianMixture(means, stds, weights)


def direct_log_prob(target, x, sigma):
    variance = target.stds.square() + sigma.square()[:, None]
    distance = (x[:, None] - target.means).square().sum(2)
    normal = -0.5 * (distance / variance + x.shape[1] * torch.log(2 * math.pi * variance))
    return torch.logsumexp(target.weights.log() + normal, 1)


@pytest.mark.parametrize(("components", "dim", "shared"), SIZES)
def test_agrees_with_the_density_written_out(components, dim, shared):
    target = mixture(components, dim, shared)
    draw = torch.Generator().manual_seed(1)
    x = 2 * torch.randn(50, dim, generator=draw, dtype=torch.float64)
    sigma = torch.logspace(-2, 1.5, 50, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    expected = direct_log_prob(target, leaf, sigma)
    (expected_score,) = torch.autograd.grad(expected.sum(), leaf)
    energy, score = target.energy_and_score(x, sigma)
    torch.testing.assert_close(energy, -expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(score, expected_score, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(target.log_prob(x, sigma), expected.detach(), rtol=1e-12, atol=1e-12)
    tweedie = x + sigma.square()[:, None] * expected_score
    torch.testing.assert_close(target(x, sigma), tweedie, rtol=1e-10, atol=1e-9)


def test_density_integrates_to_one():
    target = mixture(4, 2, False)
    axis = torch.linspace(-8, 8, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    mass = target.log_prob(grid, 0.3).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(mass.item() - 1) < 1e-9


@pytest.mark.parametrize(("components", "dim", "shared"), [(3, 2, False), (90, 2, True)])
def test_score_differentiates_twice(components, dim, shared):
    target = mixture(components, dim, shared)
    x = torch.randn(3, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x.requires_grad_()
    energy, score = target.energy_and_score(x, 0.4)
    assert energy.requires_grad
    assert score.requires_grad
    assert torch.autograd.gradcheck(lambda y: target.energy_and_score(y, 0.4), x)
    assert torch.autograd.gradgradcheck(lambda y: target.energy_and_score(y, 0.4), x)


def test_results_are_detached_unless_an_input_requires_grad():
    target = mixture(3, 2, False)
    x = torch.zeros(2, 2, requires_grad=True)
    with torch.no_grad():
        assert not any(part.requires_grad for part in target.energy_and_score(x, 1.0))
    assert not any(part.requires_grad for part in target.energy_and_score(x.detach(), 1.0))


@pytest.mark.parametrize(("components", "dim", "shared"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_of_a_row_do_not_depend_on_the_batch(components, dim, shared, dtype):
    target = mixture(components, dim, shared)
    x = torch.randn(300, dim, generator=torch.Generator().manual_seed(3)).to(dtype)
    whole = (*target.energy_and_score(x, 0.3), target(x, 0.3))
    for rows in (1, 2, 7, 31, 33, 50, 101, 299):
        part = (*target.energy_and_score(x[:rows], 0.3), target(x[:rows], 0.3))
        assert all(torch.equal(a, b[:rows]) for a, b in zip(part, whole, strict=True))


def test_far_and_narrow_components_keep_float32_accuracy():
    target = GaussianMixture([[100.0, 0.0], [-100.0, 50.0]], [0.01, 0.02], [0.5, 0.5])
    x = target.sample(64, seed=0).float()
    exact_energy, exact_score = target.energy_and_score(x.double(), 0.01)
    energy, score = target.energy_and_score(x, 0.01)
    torch.testing.assert_close(energy, exact_energy.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(score, exact_score.float(), rtol=1e-5, atol=1e-5)


def test_blocks_of_rows_change_nothing(monkeypatch):
    target = mixture(90, 9, True)
    x = torch.randn(101, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    expected = target.energy_and_score(x, 0.5)
    monkeypatch.setattr("edmfast.analytic.gaussian_mixture._BLOCK_ELEMENTS", 90 * 40)
    assert all(
        torch.equal(a, b) for a, b in zip(expected, target.energy_and_score(x, 0.5), strict=True)
    )


def test_image_shapes_and_half_precision():
    target = mixture(3, 12, False)
    x = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(5))
    energy, score = target.energy_and_score(x, torch.tensor(0.5))
    flat_energy, flat_score = target.energy_and_score(x.flatten(1), 0.5)
    assert score.shape == x.shape
    assert torch.equal(energy, flat_energy)
    assert torch.equal(score.flatten(1), flat_score)
    assert target.energy_and_score(x.half(), 0.5)[1].dtype == torch.float16


def test_samples_follow_the_law():
    target = GaussianMixture([[-2.0, 0.0], [2.0, 1.0]], [0.1, 0.3], [1.0, 3.0])
    x = target.sample(40_000, 0.2, seed=7)
    right = x[:, 0] > 0
    assert abs(right.double().mean().item() - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 40_000)
    for side, mean, std in ((~right, (-2.0, 0.0), 0.1), (right, (2.0, 1.0), 0.3)):
        width = math.hypot(std, 0.2)
        count = int(side.sum())
        offset = x[side].mean(0) - torch.tensor(mean, dtype=torch.float64)
        assert offset.abs().max() < 5 * width / math.sqrt(count)
        assert (x[side].std(0) / width - 1).abs().max() < 5 / math.sqrt(2 * count)
    assert torch.equal(x, target.sample(40_000, 0.2, seed=7))
    assert not torch.equal(x, target.sample(40_000, 0.2, seed=8))


def test_gmm40_is_the_published_one():
    target = gmm40()
    assert target.means.shape == (40, 2)
    assert target.means.abs().max() < 40
    first = torch.tensor([[-0.2995, 21.4577], [-32.9218, -29.4376]], dtype=torch.float64)
    torch.testing.assert_close(target.means[:2], first, rtol=0, atol=1e-4)
    torch.testing.assert_close(target.stds, torch.full((40,), 1.31326169, dtype=torch.float64))
    torch.testing.assert_close(target.weights, torch.full((40,), 0.025, dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [1.0], [1.0]), r"means must be \[K, D\]"),
        (([[1.0], [2.0]], [1.0], [0.5, 0.5]), r"stds must be \[K\] = \[2\]"),
        (([[1.0], [2.0]], [1.0, 1.0], [1.0]), r"weights must be \[K\] = \[2\]"),
        (([[1.0]], [0.0], [1.0]), "stds must be positive"),
        (([[math.nan]], [1.0], [1.0]), "finite"),
        (([[1.0]], [1.0], [0.0]), "sum must be positive"),
        (([[1.0], [2.0]], [1.0, 1.0], [2.0, -1.0]), "not be negative"),
    ],
)
def test_bad_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(*arguments)


@pytest.mark.parametrize(
    ("x", "sigma", "error", "message"),
    [
        (torch.zeros(2, 3), 1.0, ValueError, r"prod\(shape\) = 2"),
        (torch.zeros(2), 1.0, ValueError, "at least 2 dimensions"),
        (torch.zeros(2, 2, dtype=torch.int64), 1.0, TypeError, "floating-point"),
        (torch.zeros(2, 2), -1.0, ValueError, "sigma must be finite and at least 0"),
        (torch.zeros(2, 2), math.nan, ValueError, "finite"),
        (torch.zeros(2, 2), torch.ones(3), ValueError, "B = 2"),
    ],
)
def test_bad_states(x, sigma, error, message):
    with pytest.raises(error, match=message):
        mixture(3, 2, False).energy_and_score(x, sigma)
