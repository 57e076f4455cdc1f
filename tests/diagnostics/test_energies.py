"""The distance of energies agrees with closed forms, and so does the error of log Z."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast.diagnostics import energy_wasserstein, log_z_error, sliced_wasserstein


def test_a_shift_and_a_scale():
    energies = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert energy_wasserstein(energies, energies.flip(0) + 3) == pytest.approx(3, rel=1e-12)
    scaled = math.sqrt(float(energies.square().mean()))
    assert energy_wasserstein(energies, 2 * energies) == pytest.approx(scaled, rel=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "squared"),
    [
        ([0.0, 1.0], [0.0, 0.0, 1.0], 1 / 6),
        ([5.0], [1.0, 2.0, 6.0], (16 + 9 + 1) / 3),
    ],
)
def test_sets_of_unequal_size(a, b, squared):
    a, b = torch.tensor(a), torch.tensor(b)
    assert energy_wasserstein(a, b) == pytest.approx(math.sqrt(squared), rel=1e-12)
    assert energy_wasserstein(b, a) == pytest.approx(math.sqrt(squared), rel=1e-12)


def test_weights_are_repetitions():
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(7, generator=generator), torch.randn(11, generator=generator)
    counts = torch.tensor([3, 0, 1, 2, 5, 1, 4])
    repeated = a.repeat_interleave(counts)
    expected = sliced_wasserstein(repeated[:, None], b[:, None], projections=1)
    a[1] = math.inf  # An energy without weight does not count.
    assert energy_wasserstein(a, b, 0.1 * counts.double()) == pytest.approx(expected, rel=1e-9)
    assert energy_wasserstein(b, a, None, counts.float()) == pytest.approx(expected, rel=1e-9)
    assert energy_wasserstein(b, b.repeat(3)) == pytest.approx(0, abs=1e-12)


def test_two_points_with_weights():
    a, b = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 10.0])
    # The quantile function of a steps to 1 at 0.25, and that of b to 10 at 0.5.
    got = energy_wasserstein(a, b, torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]))
    assert got == pytest.approx(math.sqrt(0.25 * 1 + 0.5 * 81), rel=1e-12)


@pytest.mark.parametrize(
    ("a", "weights", "message"),
    [
        (torch.zeros(0), None, r"\[n\], not empty"),
        (torch.zeros(2, 2), None, r"got \[2, 2\]"),
        (torch.zeros(2), torch.ones(3), r"\[2\] and \[3\]"),
        (torch.zeros(2), torch.tensor([1.0, -1.0]), "weights_a must be >= 0"),
        (torch.zeros(2), torch.zeros(2), "positive finite sum"),
        (torch.tensor([0.0, math.nan]), None, "energies_a must be finite"),
    ],
)
def test_bad_energies_are_refused(a, weights, message):
    with pytest.raises(ValueError, match=message):
        energy_wasserstein(a, torch.zeros(3), weights)


def test_log_z_error_averages_z_not_its_logarithm():
    log_z = torch.tensor([0.0, math.log(3.0), -math.inf, math.nan]) - 500
    assert log_z_error(log_z, -500.0) == pytest.approx(0, abs=1e-4)
    assert log_z_error(log_z.double() + 2, -500.0) == pytest.approx(2, abs=1e-4)
    for bad in (torch.zeros(()), torch.zeros(0)):
        with pytest.raises(ValueError, match="need log_z"):
            log_z_error(bad, 0.0)
    with pytest.raises(ValueError, match="truth must be finite, got nan"):
        log_z_error(torch.zeros(2), math.nan)
