"""The Fréchet distance agrees with closed forms, and its error with the spread of independent sets."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from edmfast.diagnostics import frechet_distance
from edmfast.evaluation import Moments, frechet_of_features, frechet_of_moments, noise_floor
from edmfast.evaluation.frechet import _replicated

F64 = torch.float64


def normals(n, d, seed=0):
    return torch.randn(n, d, dtype=F64, generator=torch.Generator().manual_seed(seed))


def white(n, d, seed=0):
    """Return n points with the sample mean 0 and the unbiased covariance I, up to rounding."""
    points = normals(n, d, seed)
    return torch.linalg.qr(points - points.mean(0)).Q * math.sqrt(n - 1)


def test_gaussians_with_common_axes():
    widths = torch.tensor([[1.0, 2.0, 0.5], [3.0, 0.0, 0.5]], dtype=F64)
    turn = torch.linalg.qr(normals(3, 3)).Q
    shift = torch.tensor([1.0, -2.0, 0.0], dtype=F64)
    a, b = white(50, 3) * widths[0] @ turn, white(40, 3, 1) * widths[1] @ turn + shift
    got = frechet_of_moments(Moments(a), Moments(b))
    assert got == pytest.approx(5.0 + 4.0 + 4.0, rel=1e-12)


def test_gaussians_in_the_plane_without_common_axes():
    a, b = normals(2, 2), normals(2, 2, 1)
    product = (a.T @ a) @ (b.T @ b)
    # the eigenvalues of a 2x2 matrix sum to its trace and multiply to its determinant
    root = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.linalg.det(product))))
    expected = float(a.square().sum() + b.square().sum()) - 2 * root
    got = frechet_of_moments(Moments(white(30, 2) @ a), Moments(white(30, 2, 2) @ b))
    assert got == pytest.approx(expected, rel=1e-10)


def test_covariances_of_low_rank():
    """Two line segments at an angle: tr (C_a C_b)^(1/2) is |cos| of the angle for unit widths."""
    angle = 0.7
    line = white(20, 1)
    a = torch.cat([line, torch.zeros(20, 9, dtype=F64)], 1)
    direction = torch.zeros(10, dtype=F64)
    direction[:2] = torch.tensor([math.cos(angle), math.sin(angle)], dtype=F64)
    b = white(20, 1, 1) * direction
    got = frechet_of_moments(Moments(a), Moments(b))
    assert got == pytest.approx(2 - 2 * math.cos(angle), rel=1e-12)
    few = normals(8, 60)
    assert frechet_of_moments(Moments(few), Moments(few)) < 1e-10
    shifted = frechet_of_moments(Moments(few), Moments(few + 1e-3))
    assert shifted == pytest.approx(60e-6, rel=1e-4)


def test_it_is_the_distance_of_the_diagnostics():
    a, b = normals(40, 6) @ normals(6, 6, 2), normals(30, 6, 1) + 0.5
    got = frechet_of_features(a.float(), b.float())
    assert got.value == pytest.approx(frechet_distance(a, b), rel=1e-5)


def test_a_replicate_is_the_distance_of_the_drawn_rows():
    a, b = normals(40, 5), normals(30, 5, 1) * 2 + 1
    replicates = _replicated(a, Moments(a), Moments(b), 3, torch.Generator().manual_seed(7))
    draws = torch.Generator().manual_seed(7)
    for replicate in replicates:
        drawn = a[torch.randint(40, (40,), generator=draws)]
        assert float(replicate) == pytest.approx(frechet_distance(drawn, b), rel=1e-10)


def test_the_error_is_the_spread_over_independent_sets():
    found = [
        frechet_of_features(normals(150, 3, s), normals(100, 3, s + 500) + 0.5, seed=s)
        for s in range(80)
    ]
    spread = torch.tensor([distance.value for distance in found]).std()
    error = torch.tensor([distance.standard_error for distance in found]).mean()
    assert 0.75 < float(error / spread) < 1.3


def test_the_floor_falls_with_the_number_of_rows():
    floors = [noise_floor(normals(n, 4, 3), seed=1).value for n in (200, 3200)]
    assert floors[0] > 0
    # the noise is proportional to 1/n
    assert 4 < floors[0] / floors[1] < 64
    # parts of equal rows are equal, and a part of two rows has a distance to the rest
    assert noise_floor(torch.ones(10, 3)).value == 0
    assert noise_floor(normals(60, 4), 2).value > noise_floor(normals(60, 4), 30).value


def test_the_floor_compares_two_disjoint_parts_that_are_the_whole(monkeypatch):
    module = importlib.import_module("edmfast.evaluation.frechet")
    monkeypatch.setattr(module, "frechet_of_features", lambda a, b, **_: (a, b))
    rows = torch.arange(10.0)[:, None]
    first, second = noise_floor(rows, 3, seed=4)
    assert (len(first), len(second)) == (3, 7)
    assert torch.cat([first, second]).flatten().sort().values.equal(rows.flatten())


def test_without_a_bootstrap_there_is_no_error():
    found = frechet_of_features(normals(9, 2), normals(9, 2, 1), replicates=0)
    assert math.isnan(found.standard_error)
    assert str(frechet_of_features(normals(9, 2), normals(9, 2, 1))).count(" ± ") == 1


def test_equal_seeds_give_equal_errors():
    a, b = normals(30, 2), normals(30, 2, 1)
    first, again, other = (frechet_of_features(a, b, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.standard_error != other.standard_error


def test_bad_sets():
    with pytest.raises(ValueError, match="one number of features, got 2 and 3"):
        frechet_of_features(normals(5, 2), normals(5, 3))
    with pytest.raises(ValueError, match="at least two rows, got 1"):
        frechet_of_features(normals(1, 2), normals(5, 2))
    with pytest.raises(ValueError, match="n >= 4"):
        noise_floor(normals(3, 2))
