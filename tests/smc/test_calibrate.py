"""Calibration weights all levels of exact energies, and cuts off those at which an energy is noise."""

import json
import math

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.models import EnergyModel, ResidualMLP
from edmfast.targets import Constrained, Tempered
from edmfast.targets.constrained import box


@pytest.fixture(scope="module")
def modes():
    generator = torch.Generator().manual_seed(0)
    return GaussianMixture(torch.randn(12, 8, generator=generator), [0.25] * 12)


class Noisy:
    """An energy with the error of a network added, a function of x whose scale is that of its output, 1/sigma."""

    exponent = 1.0

    def __init__(self, exact, size):
        self.exact, self.size = exact, size

    def energy_and_score(self, x, sigma):
        energy, score = self.exact.energy_and_score(x, sigma)
        wave = 5 * x + 7 * math.log(sigma)
        return energy + self.size / sigma * wave.sin().sum(1), score


def test_exact_energies_are_weighted_at_all_levels(modes, levels):
    for target in (modes, Tempered(modes, 2.0)):
        calibration = smc.calibrate(target, (8,), levels(24, low=0.05), particles=400)
        assert calibration.sigma_lo == 0
        assert calibration.weighted_variance == sum(calibration.log_weight_variance)


def test_noisy_energies_are_cut(modes, levels):
    sigmas = [*levels(32, low=0.02).tolist(), 0.0]
    calibrations = [
        smc.calibrate(Noisy(modes, size), (8,), sigmas, particles=400) for size in (0.02, 0.1)
    ]
    for calibration in calibrations:
        assert len(calibration.sigmas) == len(sigmas)
        assert calibration.sigma_lo in calibration.sigmas
        assert 0.02 < calibration.sigma_lo < 2
        assert sum(calibration.log_weight_variance) > 2 * calibration.weighted_variance
        below = sum(0 < sigma < calibration.sigma_lo for sigma in calibration.sigmas)
        assert 2 <= below <= sum(0 < sigma < calibration.sigma_lo for sigma in sigmas)
    # with more noise, weighting ends earlier
    assert calibrations[1].sigma_lo > 1.3 * calibrations[0].sigma_lo
    first = calibrations[0]
    assert first.weighted_variance <= 3
    run = smc.sample(
        Noisy(modes, 0.02),
        (8,),
        first,
        particles=400,
        populations=4,
        sigma_range=(first.sigma_lo, math.inf),
    )
    assert run.degenerate.sum() == 0
    weighted = run.log_weight_sd[1:].square().mean(1)[run.sigmas[1:-1] >= first.sigma_lo].sum()
    assert 0.5 < float(weighted) / first.weighted_variance < 2


def test_a_given_end_is_kept(modes, levels):
    sigmas = levels(24, low=0.05)
    calibration = smc.calibrate(modes, (8,), sigmas, particles=200, sigma_lo=0.3)
    assert calibration.sigma_lo == 0.3
    assert 0.3 in calibration.sigmas
    assert smc.calibrate(Noisy(modes, 0.1), (8,), sigmas, particles=200, sigma_lo=0).sigma_lo == 0
    kept = smc.calibrate(
        modes, (8,), sigmas, particles=200, sigma_lo=0.3, equalise=False, populations=2
    )
    assert kept.sigmas == tuple(sigmas.tolist())
    assert kept.sigma_lo == min(sigma for sigma in kept.sigmas if sigma >= 0.3)
    for outside in (0.01, 20.0, math.nan):
        with pytest.raises(ValueError, match=r"sigma_lo must be (0 or in|finite)"):
            smc.calibrate(modes, (8,), sigmas, sigma_lo=outside)


def test_files(tmp_path):
    path = tmp_path / "calibration.json"
    calibration = smc.Calibration((2.0, 1.0, 0.5, 0.0), (0.5, 0.6), (0.2, 0.3), 1.0)
    assert calibration.weighted_variance == pytest.approx(0.04)
    calibration.save(path)
    assert smc.Calibration.load(path) == calibration
    older = json.loads(path.read_text())
    del older["sigma_lo"]
    path.write_text(json.dumps(older))
    assert smc.Calibration.load(path).sigma_lo == 0
    path.write_text(json.dumps({**older, "sigma_lo": 2.5}))
    with pytest.raises(ValueError, match=r"not a calibration.*sigma_lo"):
        smc.Calibration.load(path)


@pytest.mark.parametrize("wrong", ["energy", "score", "infinite score"])
def test_a_target_that_is_not_finite_is_named_with_its_level(modes, levels, wrong):
    class Broken:
        exponent = 1.0

        def energy_and_score(self, x, sigma):
            energy, score = modes.energy_and_score(x, sigma)
            if sigma < 1:
                energy = energy * math.nan if wrong == "energy" else energy
                score = score * math.nan if wrong == "score" else score
                score = score + math.inf if wrong == "infinite score" else score
            return energy, score

    with pytest.raises(ValueError, match=r"NaN .* at sigma = 0\.9\d*, for 50 of 50 particles"):
        smc.calibrate(Broken(), (8,), levels(24, low=0.05), particles=50, pilot_steps=64)


def test_a_wall_at_the_end_is_no_fault(modes, levels):
    sigmas = levels(12, low=0.1)
    wall = Constrained(modes, box(-1.5, 1.5), 2.0, hard_below=float(sigmas[-1]))
    calibration = smc.calibrate(wall, (8,), sigmas, particles=100, pilot_steps=16)
    assert all(math.isfinite(sd) for sd in calibration.log_weight_sd)


def test_the_highest_seed_has_room_for_the_probes(modes, levels):
    arguments = modes, (8,), levels(6, low=0.5)
    results = [
        smc.calibrate(*arguments, particles=20, pilot_steps=8, seed=s) for s in (-1, 2**64 - 1)
    ]
    assert results[0] == results[1]
    with pytest.raises(ValueError, match="seed must fit 64 bits"):
        smc.calibrate(*arguments, seed=2**64)


def test_a_learned_energy_is_fitted_by_its_energies(levels):
    """Hybrid weights, its default, switch where the pilot of energies finds that their differences are noise."""
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(2, width=8, depth=1), sigma_data=1.0)
    options = {"particles": 50, "pilot_steps": 12}
    found = smc.calibrate(model, (2,), levels(6), **options)
    assert found == smc.calibrate(model, (2,), levels(6), weights="energy", **options)
    assert found.probes is None
