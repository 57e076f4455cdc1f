"""Test that mixtures of energies whose gauges are not known to agree do not claim to be exact."""

import warnings

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.models import Denoiser, EnergyModel, ResidualMLP
from edmfast.sampling import get_sigmas_karras, sample_euler
from edmfast.targets import Conditioned, Mixture, Product, Tempered

LEFT, RIGHT = (GaussianMixture([[mean, 0.0]], [0.5]) for mean in (-3.0, 3.0))
SIGMAS = get_sigmas_karras(20, 0.05, 10.0)


class Shifted(torch.nn.Module):
    """A target with the same density in another gauge."""

    exponent = 1.0

    def __init__(self, model, by):
        super().__init__()
        self.model, self.by = model, by

    def energy_and_score(self, x, sigma):
        energy, score = self.model.energy_and_score(x, sigma)
        return energy + self.by, score


def left_mass(target):
    run = smc.sample(
        target,
        (2,),
        SIGMAS,
        particles=400,
        populations=4,
        options=smc.RunOptions(on_degenerate="ignore"),
    )
    return run, float(run.expectation_estimate(lambda x: (x[..., 0] < 0).double()).value)


UNKNOWN = Mixture([Shifted(LEFT, 5.0), RIGHT])


@pytest.mark.parametrize(
    "target",
    [
        UNKNOWN,
        Tempered(UNKNOWN, 1.5),
        Product([UNKNOWN, LEFT]),
        Mixture([UNKNOWN, RIGHT]),
        Mixture(
            [
                Conditioned(EnergyModel(ResidualMLP(2, 8, 1, num_classes=2)), class_label=c)
                for c in (0, 1)
            ]
        ),
        Mixture([Product([LEFT, RIGHT]), Product([RIGHT, RIGHT])]),
    ],
)
def test_unknown_gauges_are_told(target):
    with pytest.warns(smc.GaugeWarning, match="calibrate_offsets"):
        run, _ = left_mass(target)
    assert "but the masses of a mixture's members depend on the gauges" in run.law


def test_the_mass_that_a_gauge_makes_up_is_right_with_offsets():
    with pytest.warns(smc.GaugeWarning):
        _, wrong = left_mass(UNKNOWN)
    assert wrong < 0.1
    measured = smc.calibrate_offsets(UNKNOWN, (2,), SIGMAS, particles=200)
    with warnings.catch_warnings():
        warnings.simplefilter("error", smc.GaugeWarning)
        run, right = left_mass(measured)
    assert right == pytest.approx(0.5, abs=0.06)
    assert "gauge" not in run.law


@pytest.mark.parametrize(
    "target",
    [
        Mixture([LEFT, RIGHT]),
        Mixture([Mixture([LEFT, RIGHT]), RIGHT]),
        Mixture([Shifted(LEFT, 5.0), Shifted(RIGHT, 5.0)], gauges="equal"),
        Mixture([Shifted(LEFT, 1.0)]),
        Tempered(Mixture([LEFT, Conditioned(RIGHT)]), 2.0),
    ],
)
def test_known_gauges_are_silent(target):
    with warnings.catch_warnings():
        warnings.simplefilter("error", smc.GaugeWarning)
        run, _ = left_mass(target)
    assert "gauge" not in run.law


def test_members_without_energies_have_no_gauges():
    mixture = Mixture([Denoiser(ResidualMLP(2, 8, 1)), LEFT])
    assert mixture.gauges_known
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smc.sample(mixture, (2,), SIGMAS.float(), particles=4)


def test_a_plain_sampler_is_warned_once():
    mixture = Mixture([Shifted(LEFT, 5.0), RIGHT])
    with pytest.warns(smc.GaugeWarning) as warned:
        sample_euler(mixture, torch.randn(4, 2).double() * 10, SIGMAS, disable=True)
    assert len(warned) == 1


def test_gauges_are_equal_or_not_said():
    with pytest.raises(ValueError, match="gauges must be 'equal' or None"):
        Mixture([LEFT, RIGHT], gauges="same")
    kept = Mixture([Shifted(LEFT, 1.0), RIGHT], gauges="equal").with_offsets(None)
    assert kept.gauges == "equal"


def test_chains_on_a_mixture_of_open_gauges_warn():
    mixture = Mixture([Shifted(LEFT, 5.0), RIGHT])
    with pytest.warns(smc.GaugeWarning):
        smc.mcmc(mixture, torch.randn(1, 8, 2, dtype=torch.float64), 3.0, smc.MALA(), transitions=2)
