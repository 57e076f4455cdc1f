"""Test that faults are no longer silent: NaN in chains, noise level 0, data of another scale, sigma_lo."""

import math
import warnings

import pytest
import torch

from edmfast import distill, smc
from edmfast.analytic import GaussianMixture, ManyWell
from edmfast.distill import DataScaleWarning, DistillConfig
from edmfast.models import Denoiser, EnergyModel, ResidualMLP
from edmfast.smc.calibration import Calibration
from edmfast.targets import Conditioned, Mixture, Product, Tempered, Tilted

GAUSSIAN = GaussianMixture([[0.0] * 3], [1.0])


class Broken(torch.nn.Module):
    """A Gaussian whose energy or score is replaced where x[0] is above a bound."""

    exponent = 1.0

    def __init__(self, energy=None, score=None, above=-math.inf):
        super().__init__()
        self.energy_value, self.score_value, self.above = energy, score, above

    def energy_and_score(self, x, sigma):
        energy, score = GAUSSIAN.energy_and_score(x, sigma)
        hit = x[:, 0] > self.above
        if self.energy_value is not None:
            energy = torch.where(hit, self.energy_value, energy)
        if self.score_value is not None:
            score = torch.where(hit[:, None], self.score_value, score)
        return energy, score


def chains(target, **options):
    x = torch.zeros(2, 20, 3)
    return smc.mcmc(target, x, 1.0, options.pop("corrector", smc.MALA()), transitions=10, **options)


@pytest.mark.parametrize("corrector", [smc.MALA(), smc.HMC(), smc.Underdamped(), smc.ULA()])
@pytest.mark.parametrize("fault", [{"energy": math.nan}, {"score": math.nan}, {"score": math.inf}])
def test_chains_that_meet_nan_say_so(corrector, fault):
    with pytest.warns(smc.DegenerateWeightsWarning, match="of .* evaluations") as warned:
        chains(Broken(**fault), corrector=corrector)
    assert warned[0].filename.endswith("test_silences.py")
    with pytest.raises(RuntimeError, match="evaluations"):
        chains(Broken(**fault), corrector=corrector, on_degenerate="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chains(Broken(**fault), corrector=corrector, on_degenerate="ignore")


def test_a_few_bad_evaluations_are_counted_and_walls_are_no_fault():
    with pytest.warns(smc.DegenerateWeightsWarning):
        chains(Broken(energy=math.nan, above=1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = chains(Broken(energy=math.inf, score=math.nan, above=1.0))
    assert (result.states[..., 0] <= 1.0).all()
    with pytest.raises(ValueError, match="on_degenerate"):
        chains(GAUSSIAN, on_degenerate="quiet")


def network(kind):
    torch.manual_seed(0)
    return kind(ResidualMLP(2, 8, 1))


FLAT = GaussianMixture([[0.0, 0.0]], [1.0])
POSITIVE = {
    "energy": network(EnergyModel).energy,
    "energy and score": network(EnergyModel).energy_and_score,
    "denoised by an energy": network(EnergyModel),
    "denoised": network(Denoiser),
    "tempered": Tempered(network(EnergyModel), 2.0).energy_and_score,
    "tempered denoiser": Tempered(network(Denoiser), 2.0),
    "product": Product([network(EnergyModel), network(EnergyModel)]).energy_and_score,
    "product with a denoiser": Product([network(Denoiser), FLAT]),
    "foreign denoiser": Tempered(lambda x, sigma: x, 2.0),
    "mixture": Mixture([network(EnergyModel), FLAT], gauges="equal").energy_and_score,
    "tilted": Tilted(network(EnergyModel), lambda x: x[:, 0], 1.0).energy_and_score,
    "conditioned": Conditioned(network(EnergyModel)).energy_and_score,
}


@pytest.mark.parametrize("name", POSITIVE)
@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_noise_level_zero_is_refused_where_it_is_divided_by(name, zero):
    with pytest.raises(ValueError, match="sigma must be positive, given 0"):
        POSITIVE[name](torch.randn(3, 2), zero)


@pytest.mark.parametrize("target", [FLAT, ManyWell(2), Tempered(FLAT, 2.0), Mixture([FLAT, FLAT])])
def test_noise_level_zero_is_right_where_it_is_known(target):
    energy, score = target.energy_and_score(torch.randn(3, 2), 0.0)
    assert energy.isfinite().all()
    assert score.isfinite().all()


def trained(data, sigma_data=0.5):
    config = DistillConfig(mode="dsm", steps=1, batch_size=4)
    student = EnergyModel(ResidualMLP(2, 8, 1), sigma_data=sigma_data)
    distill(None, student, data, config=config, progress=False)


@pytest.mark.parametrize(
    ("data", "sigma_data", "text"),
    [
        (73.0 * torch.randn(500, 2), 0.5, "deviation of 7"),
        (0.01 * torch.randn(500, 2), 0.5, "deviation of 0.0"),
        (torch.randn(500, 2), 40.0, "sigma_data=40"),
        (torch.ones(500, 2), 0.5, "all numbers of the data are equal"),
    ],
)
def test_data_of_another_scale_are_told(data, sigma_data, text):
    with pytest.warns(DataScaleWarning, match=text) as warned:
        trained(data, sigma_data)
    assert warned[0].filename == __file__


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0])
def test_data_of_about_the_scale_are_silent(scale):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataScaleWarning)
        trained(scale * torch.randn(2000, 2))


def test_a_calibration_says_where_weights_end():
    calibration = Calibration((10.0, 3.0, 1.0, 0.3, 0.1), (0.9,) * 4, (0.1,) * 4, sigma_lo=1.0)
    options = {"particles": 50, "ess_threshold": 1.0}
    calibrated = smc.sample(FLAT, (2,), calibration, **options)
    explicit = smc.sample(FLAT, (2,), calibration, sigma_range=(1.0, math.inf), **options)
    assert torch.equal(calibrated.x, explicit.x)
    assert "weights stop at sigma = 1" in calibrated.law
    everywhere = smc.sample(FLAT, (2,), calibration, sigma_range=(0.0, math.inf), **options)
    assert "weights stop" not in everywhere.law
    assert everywhere.resampled[3:-1].any()
    assert not calibrated.resampled[3:].any()


def test_a_reward_of_another_shape_is_refused_before_the_run():
    calls = []

    def denoiser(x, sigma):
        calls.append(len(x))
        return x / 2

    for method in ("fk", "svdd", "best_of_n"):
        calls.clear()
        with pytest.raises(ValueError, match="reward"):
            smc.steer(
                denoiser, lambda x: x[:, :1], (2,), [10.0, 1.0, 0.1], prompts=3, method=method
            )
        assert len(calls) <= 1


@pytest.mark.parametrize("kind", [EnergyModel, Denoiser])
@pytest.mark.parametrize("level", [0.0, -1.0])
def test_a_tensor_of_levels_that_holds_none_is_refused(kind, level):
    model = kind(ResidualMLP(2, width=8, depth=1))
    with pytest.raises(ValueError, match=r"sigma must be positive, given .* in a tensor"):
        model(torch.ones(3, 2), torch.tensor([0.5, level, 1.0]))
