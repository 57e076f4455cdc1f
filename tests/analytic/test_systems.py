"""Particle systems agree with their formulas in plain loops, with autograd and with their symmetries."""

import math

import pytest
import torch

from edmfast import analytic

SYSTEMS = {
    "DW4": (analytic.DoubleWellPairs, (4, 2)),
    "LJ13": (analytic.LennardJones, (13, 3)),
}


def states(shape, seed=0, count=5):
    """Return particles on a lattice, each displaced a little, so that none are close to each other."""
    particles, dimensions = shape
    axes = [torch.arange(3, dtype=torch.float64)] * dimensions
    lattice = torch.cartesian_prod(*axes)[:particles]
    draw = torch.Generator().manual_seed(seed)
    shift = torch.randn(count, *shape, generator=draw, dtype=torch.float64)
    return 1.3 * lattice + 0.15 * shift


def pair_energy(name, d):
    if name == "DW4":
        return -4 * (d - 4) ** 2 + 0.9 * (d - 4) ** 4
    return 2 * (d**-12 - 2 * d**-6)


@pytest.mark.parametrize("name", SYSTEMS)
def test_energy_is_the_sum_over_pairs(name):
    make, shape = SYSTEMS[name]
    x = states(shape)
    expected = []
    for row in x:
        total = 0.0
        for i in range(shape[0]):
            for j in range(i):
                total += pair_energy(name, float((row[i] - row[j]).norm()))
        if name == "LJ13":
            total += 0.5 * float((row - row.mean(0)).square().sum())
        expected.append(total)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(make().energy(x), expected, rtol=1e-12, atol=1e-12)
    halved = make(tau=2.0, trap=0.5).energy(x) if name == "LJ13" else make(tau=2.0).energy(x)
    torch.testing.assert_close(halved, expected / 2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("centre_std", [None, 0.4])
@pytest.mark.parametrize("name", SYSTEMS)
def test_score_is_minus_the_gradient(name, centre_std):
    make, shape = SYSTEMS[name]
    target, x = make(centre_std=centre_std), states(shape, 1)
    leaf = x.clone().requires_grad_()
    energy, score = target.energy_and_score(leaf)
    (gradient,) = torch.autograd.grad(energy.sum(), leaf, create_graph=True)
    torch.testing.assert_close(score, -gradient, rtol=1e-11, atol=1e-11)
    probe = torch.ones_like(x)
    (first,) = torch.autograd.grad((score * probe).sum(), leaf, retain_graph=True)
    (second,) = torch.autograd.grad((-gradient * probe).sum(), leaf)
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)
    assert not target.energy_and_score(x)[1].requires_grad
    flat = target.energy_and_score(x.flatten(1))
    assert torch.equal(flat[1], score.detach().flatten(1))


@pytest.mark.parametrize("name", SYSTEMS)
def test_symmetries(name):
    make, shape = SYSTEMS[name]
    target, x = make(), states(shape, 2)
    turn, _ = torch.linalg.qr(
        torch.randn(shape[1], shape[1], dtype=torch.float64, generator=torch.Generator())
    )
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(0))
    energy, score = target.energy_and_score(x)
    moved_energy, moved_score = target.energy_and_score(x[:, order] @ turn.T + 3.0)
    torch.testing.assert_close(moved_energy, energy, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(moved_score, score[:, order] @ turn.T, rtol=1e-9, atol=1e-9)
    assert score.sum(1).abs().max() < 1e-9  # the centre feels no force


def test_the_centre_is_an_independent_gaussian():
    x = states((4, 2), 3)
    x = x - x.mean(1, keepdim=True)
    shift = torch.tensor([0.3, -0.2], dtype=torch.float64)
    target, free = analytic.DoubleWellPairs(centre_std=0.5), analytic.DoubleWellPairs()
    extra = float(shift.square().sum()) / (2 * 0.5**2)
    torch.testing.assert_close(target.energy(x + shift), free.energy(x) + extra)


def test_known_minima():
    # the minimum is that of one pair, since four points cannot have all distances at it
    r = 4 - math.sqrt(4 / 1.8)
    pair = analytic.DoubleWellPairs(2, 2)
    x = torch.tensor([[[0.0, 0.0], [r, 0.0]]], dtype=torch.float64)
    energy, score = pair.energy_and_score(x)
    assert score.abs().max() < 1e-12
    assert abs(energy.item() + 16 / 3.6) < 1e-12
    dimer = analytic.LennardJones(2, 3, eps=1.0, trap=0.0)
    x = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]], dtype=torch.float64)
    energy, score = dimer.energy_and_score(x)
    assert score.abs().max() < 1e-12
    assert energy.item() == -1.0


def test_distances():
    target, x = analytic.LennardJones(), states((13, 3), 4)
    row, column = torch.triu_indices(13, 13, 1)
    torch.testing.assert_close(target.distances(x), torch.cdist(x, x)[:, row, column])


def test_coincident_particles_have_infinite_energy_in_float32():
    x = torch.zeros(1, 13, 3)
    assert analytic.LennardJones().energy(x + 0.0).isinf().all()


def test_wrong_arguments():
    with pytest.raises(ValueError, match="particles must be an integer of at least 2"):
        analytic.DoubleWellPairs(1)
    with pytest.raises(ValueError, match="must be positive"):
        analytic.LennardJones(centre_std=0.0)
    with pytest.raises(ValueError, match="without noise"):
        analytic.LennardJones().energy_and_score(torch.ones(1, 39), 0.1)
    with pytest.raises(ValueError, match=r"\[B, 4, 2\]"):
        analytic.DoubleWellPairs().energy(torch.zeros(2, 6))
