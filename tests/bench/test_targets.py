"""Test the hard targets at a small size against known values."""

import math

import pytest
import torch

from bench.studies.targets import exact as targets_exact
from bench.studies.targets import report as targets_report


def rows_of(rows, run):
    return {row.quantity: row for row in rows if row.run == run}


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_gmm40_finds_all_modes_and_its_normaliser(gamma):
    size = targets_exact.Size(20, 2000 * int(gamma), 17, 300, 40, 150)
    rows = targets_exact.gmm40(gamma, size, ("curvature_matched",))
    by_quantity = rows_of(rows, f"gamma={gamma:g} curvature_matched")
    assert (by_quantity["modes found"].value, by_quantity["modes found"].error) == (40, 0)
    ratio = by_quantity["Z / truth"]
    assert abs(ratio.value - 1) < 3 * ratio.error < 0.1
    variation = by_quantity["masses, total variation"]
    assert variation.truth < variation.value < 2.5 * variation.truth
    assert by_quantity["W2"].value < 1.5 * by_quantity["W2"].truth


def test_many_well_normaliser_and_masses():
    rows = targets_exact.many_well(targets_exact.QUICK_MANY_WELL, ("curvature_matched",))
    by_quantity = rows_of(rows, "curvature_matched")
    assert abs(by_quantity["log Z"].truth - 164.6957) < 1e-4
    ratio, left = by_quantity["Z / truth"], by_quantity["mass of the left wells"]
    assert abs(ratio.value - 1) < 3 * ratio.error < 0.15
    assert abs(left.value - left.truth) < 3 * left.error < 0.05
    assert by_quantity["unique ancestors / N"].value > 0.2


def test_law_of_the_square_integrates_as_a_grid_does():
    law, log_mass = targets_exact.gmm40_law(2.0)
    axis = torch.arange(-50, 50.01, 0.4, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    density = 2 * targets_exact.gmm40_law(1.0)[0].log_prob(grid)
    assert abs(float(torch.logsumexp(density, 0)) + 2 * math.log(0.4) - log_mass) < 1e-9
    near = grid[density > density.max() - 20][::50]
    expected = 2 * targets_exact.gmm40_law(1.0)[0].log_prob(near) - log_mass
    torch.testing.assert_close(law.log_prob(near), expected, rtol=1e-9, atol=1e-9)


def test_distances_and_draws():
    a = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([3.0, 4.0])
    assert abs(targets_report.wasserstein(a, a[torch.randperm(50)] + shift) - 5) < 1e-5
    assert abs(targets_report.wasserstein_1d(a[:, 0], a[:, 0] + 2) - 2) < 1e-5
    weights = torch.tensor([1.0, 0.0, 3.0])
    drawn = targets_report.evenly(torch.arange(3), weights, 8)
    assert drawn.tolist() == [0, 0, 2, 2, 2, 2, 2, 2]
    row = targets_report.mean("a", "b", "c", torch.tensor([1.0, 3.0]), 2.0)
    assert (row.value, row.error) == (2.0, 1.0)
    assert "2 ± 1   (truth 2)" in targets_report.table([row])
