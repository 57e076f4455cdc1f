"""Test the shipped denoiser of the demonstration, what control makes of it, and the energy distilled from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from edmfast.analytic import MixtureOfGaussians
from edmfast.demo.budget import Budget
from edmfast.demo.known_answer import power_answer
from edmfast.demo.laws import REVERSAL, SCALED, run_law
from edmfast.demo.part_energy import report_energy, train_energy
from edmfast.demo.smooth_denoiser import SHIPPED, load_smooth_denoiser
from edmfast.demo.smooth_digits import load_smooth_digits
from edmfast.models import Denoiser, EnergyModel, ResidualMLP, load_model, save_model
from edmfast.targets import Tempered


@pytest.fixture(scope="module")
def mixture() -> MixtureOfGaussians:
    return load_smooth_digits()


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return load_smooth_denoiser()


def variation(law, model, mixture: MixtureOfGaussians, gamma: float, populations: int) -> float:
    """Return the total variation of the masses of p^gamma by a law, of the mean over populations."""
    target = Tempered(model, gamma)
    made = run_law(law, target, (gamma,), steps=32, particles=256, populations=populations, seed=0)
    return made.measures(power_answer(mixture, gamma)).total_variation_of_mean


@torch.no_grad()
def test_the_shipped_denoiser_is_close_to_the_exact_one(
    mixture: MixtureOfGaussians, denoiser: Denoiser
) -> None:
    assert SHIPPED.stat().st_size < 1_500_000
    labels = torch.full((500,), 3)
    for label in (None, labels):
        density = mixture if label is None else mixture.conditional(3)
        for sigma in (0.1, 0.5, 2.0):
            x = density.sample(500, sigma, seed=7)
            exact = density(x, sigma)
            found = denoiser(x.float(), sigma, class_label=label)
            error = (found - exact).square().mean() / (x - exact).square().mean()
            assert error < 0.15


def test_another_model_is_no_denoiser(tmp_path: Path) -> None:
    save_model(EnergyModel(ResidualMLP(64, 8, 1), sigma_data=0.75), tmp_path / "energy")
    with pytest.raises(ValueError, match="holds EnergyModel, and not a Denoiser"):
        load_smooth_denoiser(tmp_path / "energy")


@pytest.mark.slow
@pytest.mark.parametrize(("gamma", "most"), [(2.0, 0.25), (1.25, 0.12)])
def test_reversal_weights_are_right_for_the_learned_denoiser(
    mixture: MixtureOfGaussians, denoiser: Denoiser, gamma: float, most: float
) -> None:
    assert variation(REVERSAL, denoiser, mixture, gamma, 8) <= most
    assert variation(SCALED, denoiser, mixture, gamma, 8) > 2 * most


def test_training_again_continues_or_starts_anew(
    mixture: MixtureOfGaussians, denoiser: Denoiser, tmp_path: Path
) -> None:
    budget = Budget(distill_steps=3, distill_batch=16, value_paths=16)
    first = train_energy(denoiser, mixture, budget, tmp_path)
    again = train_energy(denoiser, mixture, budget, tmp_path)
    assert all(
        torch.equal(*pair) for pair in zip(first.parameters(), again.parameters(), strict=True)
    )
    longer = dataclasses.replace(budget, distill_steps=4)
    other = train_energy(denoiser, mixture, longer, tmp_path)
    (tmp_path / "fresh").mkdir()
    fresh = train_energy(denoiser, mixture, longer, tmp_path / "fresh")
    assert all(
        torch.equal(*pair) for pair in zip(other.parameters(), fresh.parameters(), strict=True)
    )


@pytest.mark.slow
def test_the_distilled_energy_is_told_in_nats_and_masses(
    mixture: MixtureOfGaussians, denoiser: Denoiser, tmp_path: Path
) -> None:
    budget = Budget(distill_steps=300, value_paths=512, populations=4)
    energy = train_energy(denoiser, mixture, budget, tmp_path)
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    saved = load_model(tmp_path / "energy.safetensors")
    torch.testing.assert_close(saved.energy(x, 0.5), energy.energy(x, 0.5))
    nats, laws = report_energy(energy, mixture, budget, tmp_path)
    between = dict(zip(nats.header, nats.rows[2], strict=True))
    assert between["σ 0.06"] < 3
    assert between["σ 1"] < 0.3
    masses = {row[0]: row[1] for row in laws.rows}
    assert masses[REVERSAL.name] < 0.25 < masses["energies alone"]
    for name in ("d_energy", "d_nats"):
        assert (tmp_path / f"{name}.png").stat().st_size > 0
