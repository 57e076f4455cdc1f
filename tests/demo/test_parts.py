"""Test the parts of the demonstration: exact masses, conditions, score scaling and proposals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edmfast.analytic import GaussianMixture
from edmfast.demo.budget import Budget
from edmfast.demo.laws import ENERGIES, REVERSAL, SCALED
from edmfast.demo.part_mode_masses import cases, exact_masses, smc_masses
from edmfast.demo.part_proposals import distinct_digits, kernel_density, report_proposals
from edmfast.demo.score_scaling import score_scaled_samples
from edmfast.sampling import get_sigmas_exponential


@pytest.mark.slow
def test_curvature_matching_keeps_the_digits_that_euler_loses(tmp_path: Path) -> None:
    (section,) = report_proposals(Budget(), tmp_path)
    digits = {row[0]: row[1] for row in section.rows}
    variance = {row[0]: row[2] for row in section.rows}
    assert digits["curvature_matched"] >= 400
    assert variance["curvature_matched"] <= 6
    assert variance["curvature_matched, calibrated"] <= 3
    assert digits["euler"] < 20
    assert variance["euler"] > 300
    assert (tmp_path / "f_proposals.png").stat().st_size > 0


def test_distinct_digits_counts_each_once() -> None:
    density = kernel_density()
    assert distinct_digits(density.means[[5, 5, 9, 1700]], density) == 3


def test_exact_masses_of_separated_modes_have_a_closed_form() -> None:
    squared = cases()[0]
    weights, variances = torch.tensor([0.6, 0.4]), torch.tensor([0.6, 0.25]) ** 2
    closed = (weights.square() / variances).double()
    assert exact_masses(squared) == pytest.approx(closed / closed.sum(), abs=5e-3)


@pytest.mark.parametrize("index", [0, 1])
def test_masses_are_right_with_weights_and_wrong_without(index: int) -> None:
    case, budget = cases()[index], Budget(mixture_seeds=6, mixture_particles=1500)
    exact = exact_masses(case)
    # the bias of matched reversals falls with the steps, and that of exact weights is none
    for law, bias in ((ENERGIES, 2e-3), (REVERSAL, 6e-3)):
        masses = smc_masses(case, law, budget, seed=3)
        error = masses.std(0) / len(masses) ** 0.5
        assert ((masses.mean(0) - exact).abs() < 4 * error + bias).all()
    scaled = smc_masses(case, SCALED, budget, seed=3).mean(0)
    assert (scaled - exact).abs().max() > 0.05


def test_score_scaling_by_one_samples_a_gaussian() -> None:
    model = GaussianMixture([[1.0, -1.0]], [0.5])
    like = torch.empty(1, 20_000, 2, dtype=torch.float64)
    x = score_scaled_samples(model, 1.0, like, get_sigmas_exponential(400, 0.01, 8.0)[:-1])[0]
    assert x.mean(0) == pytest.approx(model.means[0], abs=0.02)
    assert x.std(0) == pytest.approx(torch.full((2,), 0.5), abs=0.02)
