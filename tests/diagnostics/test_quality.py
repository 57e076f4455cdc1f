"""Distances between sets of samples agree with closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.diagnostics import (
    frechet_distance,
    maximum_mean_discrepancy,
    mode_masses,
    noising_trajectory,
    sliced_wasserstein,
)


def normals(n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, dtype=torch.float64, generator=generator)


def white(n, d, seed=0):
    """Return n points with the sample mean 0 and the unbiased covariance I, up to rounding."""
    points = normals(n, d, seed)
    return torch.linalg.qr(points - points.mean(0)).Q * math.sqrt(n - 1)


def test_frechet_of_aligned_gaussians():
    std_a, std_b = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 0.0, 0.5]).double()
    shift = torch.tensor([1.0, -2.0, 0.0]).double()
    got = frechet_distance(white(50, 3) * std_a, white(40, 3, seed=1) * std_b + shift)
    assert got == pytest.approx(5.0 + 4.0 + 4.0, rel=1e-12)


def test_frechet_of_two_correlated_planes():
    a, b = normals(2, 2), normals(2, 2, seed=1)
    product = (a.T @ a) @ (b.T @ b)
    root_trace = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.linalg.det(product))))
    expected = float((a**2).sum() + (b**2).sum()) - 2 * root_trace
    got = frechet_distance(white(30, 2) @ a, white(30, 2, seed=2) @ b)
    assert got == pytest.approx(expected, rel=1e-10)


def test_frechet_keeps_its_digits_with_fewer_samples_than_features():
    few = normals(8, 60)
    assert frechet_distance(few, few) < 1e-12
    assert frechet_distance(few, few + 1e-3) == pytest.approx(60e-6, rel=1e-6)
    assert frechet_distance(few.float().reshape(8, 3, 20), few.reshape(8, 3, 20)) < 1e-9


@pytest.mark.parametrize(
    ("a", "b", "squared"),
    [
        ([0.0, 1.0], [0.0, 0.0, 1.0], 1 / 6),
        ([2.0, 0.0], [1.0, 3.0], 1.0),
        ([5.0], [1.0, 2.0, 6.0], (16 + 9 + 1) / 3),
    ],
)
def test_sliced_wasserstein_on_the_line(a, b, squared):
    a, b = torch.tensor(a)[:, None], torch.tensor(b)[:, None]
    assert sliced_wasserstein(a, b, projections=3) == pytest.approx(math.sqrt(squared), rel=1e-12)
    assert sliced_wasserstein(b, a, projections=3) == pytest.approx(math.sqrt(squared), rel=1e-12)


def test_sliced_wasserstein_of_a_shift():
    points, shift = normals(100, 6), torch.tensor([1.0, 2.0, 0, 0, -2.0, 0]).double()
    got = sliced_wasserstein(points, points + shift, projections=20000)
    # The mean over directions of <shift, direction>² is |shift|² / D.
    assert got == pytest.approx(math.sqrt(9 / 6), rel=0.02)
    repeated = points.repeat(3, 1)
    assert sliced_wasserstein(points, repeated) == pytest.approx(0, abs=1e-12)


def test_mmd_is_the_u_statistic():
    a, b = normals(5, 2), normals(4, 2, seed=1)

    def kernel(x, y):
        return math.exp(-float((x - y).square().sum()) / (2 * 0.8**2))

    within_a = [kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j]
    within_b = [kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j]
    across = [kernel(x, y) for x in a for y in b]
    expected = sum(within_a) / 20 + sum(within_b) / 12 - 2 * sum(across) / 20
    assert maximum_mean_discrepancy(a, b, bandwidth=0.8) == pytest.approx(expected, rel=1e-12)


def test_mmd_default_bandwidth_is_the_median_distance():
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [7.0]])
    # The pooled distances are 1, 2, 3, 4, 6, 7, and torch's median is the lower of the two in the middle.
    by_hand = maximum_mean_discrepancy(a, b, bandwidth=3.0)
    assert maximum_mean_discrepancy(a, b) == by_hand


def test_mmd_separates_two_distributions():
    same = maximum_mean_discrepancy(normals(400, 3), normals(400, 3, seed=1))
    other = maximum_mean_discrepancy(normals(400, 3), 1.5 * normals(400, 3, seed=1))
    assert abs(same) < 0.003 < other


def test_mode_masses():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    samples = torch.tensor([[1.0, 1.0], [9.0, 1.0], [11.0, 0.0], [0.0, -3.0]])
    expected = torch.tensor([0.5, 0.5, 0.0]).double()
    assert torch.equal(mode_masses(samples, centres), expected)
    weighted = mode_masses(samples, centres, torch.tensor([1.0, 0.0, 6.0, 1.0]))
    assert torch.equal(weighted, torch.tensor([0.25, 0.75, 0.0]).double())


@pytest.mark.parametrize(
    "distance", [frechet_distance, sliced_wasserstein, maximum_mean_discrepancy]
)
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(4, 2), torch.zeros(4, 3), r"one shape, got \(4, 2\) and \(4, 3\)"),
        (torch.zeros(4), torch.zeros(4), "expected two sets"),
        (torch.zeros(0, 2), torch.zeros(4, 2), "of at least"),
        (torch.full((4, 2), math.nan), torch.zeros(4, 2), "finite"),
    ],
)
def test_bad_sets_are_refused(distance, a, b, message):
    with pytest.raises(ValueError, match=message):
        distance(a, b)


def test_other_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="projections must be an integer of at least 1"):
        sliced_wasserstein(torch.zeros(4, 2), torch.zeros(4, 2), projections=0)
    with pytest.raises(ValueError, match=r"bandwidth must be positive and finite, got 0\.0"):
        maximum_mean_discrepancy(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"weights must be \[4\]"):
        mode_masses(torch.zeros(4, 2), torch.zeros(1, 2), torch.tensor([1.0, -1.0, 1.0, 1.0]))


def test_directions_are_independent_of_the_noise_in_the_samples():
    """Directions differ from the samples' noise at the same seed; equal ones would double the distance."""
    states = noising_trajectory(torch.zeros(300, 64).double(), [1.0, 0.5], seed=0)[0]
    other = torch.randn(300, 64, generator=torch.manual_seed(5), dtype=torch.float64)
    distances = [sliced_wasserstein(states, other, seed=seed) for seed in range(4)]
    assert distances[0] < 1.2 * min(distances[1:])
