"""The energy distance agrees with sums over pairs written out, and with closed forms."""

from __future__ import annotations

import importlib
import itertools
import math

import pytest
import torch

from edmfast.diagnostics import energy_distance


def normals(n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, dtype=torch.float64, generator=generator)


def test_it_is_the_statistic_of_all_pairs():
    a, b = normals(5, 3), normals(4, 3, seed=1)

    def mean(pairs):
        distances = [float((x - y).norm()) for x, y in pairs]
        return sum(distances) / len(distances)

    expected = 2 * mean(itertools.product(a, b))
    expected -= mean(itertools.permutations(a, 2)) + mean(itertools.permutations(b, 2))
    assert energy_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert energy_distance(b, a) == pytest.approx(expected, rel=1e-12)
    images = a.reshape(5, 1, 3).float(), b.reshape(4, 1, 3).float()
    assert energy_distance(*images) == pytest.approx(expected, rel=1e-5)


def test_it_does_not_depend_on_the_blocks(monkeypatch):
    module = importlib.import_module("edmfast.diagnostics.energy_distance")
    a, b = normals(50, 2), normals(37, 2, seed=1)
    whole = energy_distance(a, b)
    monkeypatch.setattr(module, "_ROWS", 7)
    assert energy_distance(a, b) == pytest.approx(whole, rel=1e-12)


def test_two_normals_on_the_line():
    """|X - Y| of N(0, 1) and N(m, 1) has a folded normal law with the variance 2."""
    a, b = normals(3000, 1), normals(3000, 1, seed=1) + 2
    between = 2 / math.sqrt(math.pi) * math.exp(-1) + 2 * math.erf(1.0)
    assert energy_distance(a, b) == pytest.approx(2 * between - 4 / math.sqrt(math.pi), rel=0.05)
    # equal distributions are near 0, where a biased estimate with the pairs (x, x) would be .04 above
    values = [energy_distance(normals(60, 1, s), normals(60, 1, s + 500)) for s in range(200)]
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values)) / len(values)
    assert abs(mean) < 3 * spread < 0.02


def test_bad_sets():
    with pytest.raises(ValueError, match="at least 2 samples"):
        energy_distance(torch.zeros(1, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="finite"):
        energy_distance(torch.full((2, 2), math.inf), torch.zeros(3, 2))
