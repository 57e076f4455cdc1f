"""Streams of features have the moments of the whole set, with all their digits."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.evaluation import Moments

F64 = torch.float64


def normals(n, d, seed=0):
    return torch.randn(n, d, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sizes", [[50], [1, 49], [7, 0, 20, 23], [1] * 50])
def test_batches_of_any_size_give_the_moments_of_the_whole(sizes):
    rows = normals(50, 4) @ normals(4, 4, 1) + 3
    moments = Moments()
    for part in rows.split(sizes):
        moments.update(part)
    assert moments.count == 50
    torch.testing.assert_close(moments.mean, rows.mean(0), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(moments.covariance, rows.T.cov(), rtol=1e-12, atol=1e-12)


def test_streams_merge():
    rows, empty = normals(30, 3), Moments()
    first, second = Moments(rows[:11]), Moments(rows[11:].float())
    first.merge(second)
    first.merge(empty)
    empty.merge(first)
    expected = torch.cat([rows[:11], rows[11:].float().double()])
    for moments in (first, empty):
        torch.testing.assert_close(moments.covariance, expected.T.cov(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(moments.mean, expected.mean(0))


def test_a_large_mean_costs_no_digits_of_the_covariance():
    rows = normals(40, 2)
    moments = Moments()
    for part in (rows + 1e7).split(8):
        moments.update(part)
    torch.testing.assert_close(moments.covariance, rows.T.cov(), rtol=1e-7, atol=1e-7)


def test_the_root_has_the_rank_of_the_covariance():
    rows = normals(100, 3) @ normals(3, 20, 1)
    root = Moments(rows).root()
    torch.testing.assert_close(root.T @ root, rows.T.cov(), rtol=1e-12, atol=1e-12)
    assert int((root.norm(dim=1) > 0).sum()) == 3


def test_bad_features():
    moments = Moments(normals(3, 2))
    with pytest.raises(ValueError, match=r"\[B, 2\], got \[3, 4\]"):
        moments.update(normals(3, 4))
    with pytest.raises(ValueError, match="finite"):
        moments.update(torch.full((1, 2), math.nan))
    with pytest.raises(ValueError, match="one number of features, got 2 and 3"):
        moments.merge(Moments(normals(3, 3)))
    with pytest.raises(ValueError, match="at least two rows, got 1"):
        _ = Moments(normals(1, 2)).covariance
