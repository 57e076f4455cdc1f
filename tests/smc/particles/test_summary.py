"""Results have short texts, and a run counts its evaluations and gives equally weighted samples."""

import math

import pytest
import torch

from edmfast import diagnostics, smc
from edmfast.analytic import GaussianMixture, ManyWell
from edmfast.distill import DistillConfig, distill
from edmfast.models import Denoiser, EnergyModel, ResidualMLP
from edmfast.smc.particles.estimates import Estimate
from edmfast.smc.particles.evaluations import Evaluations
from edmfast.targets import Conditioned, Guided, Mixture, Product, ProposedBy, Tempered, Tilted
from tests.grouped import grouped

MODEL = GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.5, 0.3])
OTHER = GaussianMixture([[0.5, 0.0]], [1.0])
LEVELS = [10.0, 5.0, 2.0, 1.0, 0.5, 0.2]


def run(target=MODEL, **options):
    options = {"particles": 64, "populations": 4, "on_degenerate": "ignore", **options}
    return smc.sample(target, (2,), options.pop("sigmas", LEVELS), **grouped(**options))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-5.7331, 0.0061, "-5.733 ± 0.006"),
        (0.94, 0.12, "0.94 ± 0.12"),
        (0.94, 0.0996, "0.94 ± 0.10"),
        (123456.0, 2300.0, "123000 ± 2000"),
        (164.69571, 0.0195, "164.70 ± 0.02"),
        (0.0, 0.5, "0.0 ± 0.5"),
        (1.0, math.nan, "1.0000 ± nan"),
        (1.0, math.inf, "1.0000 ± inf"),
        (-math.inf, math.nan, "-inf ± nan"),
        (2.0, 0.0, "2.0000 ± 0"),
        (1e-20, 3e-22, "1.000000e-20 ± 3.0e-22"),
    ],
)
def test_an_estimate_is_rounded_to_its_error(value, error, text):
    estimate = Estimate(torch.tensor(value).double(), torch.tensor(error).double())
    assert str(estimate) == f"{estimate}" == text
    assert repr(estimate) == f"Estimate({text})"
    first, second = estimate  # an estimate is still a tuple
    assert first is estimate.value
    assert second is estimate.standard_error


def test_estimates_of_several_numbers():
    estimate = Estimate(torch.tensor([[0.5, 1.0]]), torch.tensor([[0.1, 0.02]]))
    assert str(estimate) == "[[0.50 ± 0.10, 1.00 ± 0.02]]"
    many = Estimate(torch.zeros(100), torch.ones(100))
    assert "100 in all" in str(many)
    assert len(str(many)) < 300


def test_the_repr_is_one_line_and_the_summary_a_few():
    result = run()
    assert "\n" not in repr(result)
    assert len(repr(result)) < 200
    for part in ("4 populations of 64 particles", "exact", "log Z", "verdict: ok"):
        assert part in repr(result)
    text = result.summary()
    estimate = str(result.log_z_estimate())
    for part in (result.law, estimate, "effective sample size of 64", "forward", "verdict: ok"):
        assert part in text
    assert 5 <= len(text.splitlines()) <= 12


def test_every_result_has_a_short_repr():
    network = EnergyModel(ResidualMLP(2, 16, 2))
    data = torch.randn(64, 2) / 2
    check = diagnostics.self_check(MODEL, [torch.randn(50, 2), torch.randn(50, 2)], [1.0, 0.5])
    config = DistillConfig(mode="dsm", steps=3, batch_size=8)
    results = [
        run(sigmas=[*LEVELS, 0.0]),
        run(populations=1),
        smc.mcmc(MODEL, torch.randn(2, 50, 2), 1.0, smc.MALA(), transitions=5),
        smc.steer(MODEL.denoise, lambda x: x[:, 0], (2,), LEVELS, prompts=50),
        smc.calibrate(MODEL, (2,), LEVELS, particles=50, pilot_steps=8),
        distill(None, network, data, config=config, progress=False),
        check,
    ]
    for result in results:
        assert "\n" not in repr(result)
        assert "tensor" not in repr(result)
        assert len(repr(result)) < 250
        assert repr(result).startswith(type(result).__name__)


class Counting(torch.nn.Module):
    """A network that counts its forward passes."""

    def __init__(self, network):
        super().__init__()
        self.network, self.rows = network, 0

    def forward(self, *args, **options):
        self.rows += 1
        return self.network(*args, **options)


TWO = torch.tensor([[1.0, 0.0]])


@pytest.mark.parametrize(
    ("target", "options", "forward", "backward"),
    [
        (MODEL, {}, 6, 6 + 2 * 5),
        (MODEL, {"proposal": "noise_matched"}, 6, 6),
        (Tempered(MODEL, 2.0), {"proposal": "euler"}, 6, 6),
        (Product([MODEL, OTHER]), {}, 12, 12 + 2 * 2 * 5),
        (Product([MODEL, OTHER], [1.0, 0.0]), {"proposal": "euler"}, 6, 6),
        (Guided(MODEL, OTHER, 1.5), {"proposal": "euler"}, 12, 12),
        (Mixture([MODEL, OTHER]), {"proposal": "euler"}, 12, 12),
        (MODEL.denoise, {}, 6, 0),
        (MODEL, {"weights": "score"}, 6, 6),
        (Product([Denoiser(ResidualMLP(2, 8, 1)), OTHER]), {}, 12, 6 + (1 + 2) * 5),
        (Product([Denoiser(ResidualMLP(2, 8, 1)), OTHER]), {"weights": "score"}, 12, 6),
        (Tempered(Denoiser(ResidualMLP(2, 8, 1)), 2.0), {"weights": smc.Reversal(3)}, 6, 3 * 5),
        (Tempered(MODEL, 2.0), {"weights": "reversal"}, 6, 6),
        (Tempered(MODEL, 2.0), {"weights": smc.Reversal(1)}, 6, 6 + 2 * 5),
        (MODEL, {"proposal": "euler", "correctors": smc.HMC(2, 3)}, 6 + 36, 6 + 36),
        (
            Tilted(MODEL, lambda x: x[:, 0], 1.0, gradient="exact", ramp=None),
            {"proposal": "euler"},
            6,
            18,
        ),
        (
            Tilted(MODEL, lambda x: x[:, 0], 1.0, gradient="approximate", ramp=None),
            {"proposal": "euler"},
            6,
            6,
        ),
        (ProposedBy(MODEL, OTHER), {"proposal": "euler"}, 12, 6),
    ],
)
@pytest.mark.filterwarnings("ignore::edmfast.smc.MixedModelsWarning")
def test_forward_and_backward_evaluations(target, options, forward, backward, tmp_path):
    result = run(target, particles=8, dtype=torch.float32, **options)
    assert result.evaluations == Evaluations(forward, backward)
    assert f"{forward} forward, {backward} backward" in result.summary()
    result.save(tmp_path / "p")
    assert smc.Particles.load(tmp_path / "p").evaluations == result.evaluations


def test_counted_forward_passes_are_those_of_the_network():
    network = Counting(ResidualMLP(2, 8, 1))
    result = run(EnergyModel(network), particles=8, populations=1, proposal="euler")
    assert network.rows == result.evaluations.forward == result.nfe == len(LEVELS)


def test_equally_weighted_samples():
    result = run(Tempered(MODEL, 2.0), particles=500)
    samples = result.samples(20_000, seed=3)
    assert samples.shape == (20_000, 2)
    assert torch.equal(samples, result.samples(20_000, seed=3))
    assert not torch.equal(samples, result.samples(20_000, seed=4))
    mean = result.expectation_estimate(lambda x: x).value
    torch.testing.assert_close(samples.double().mean(0), mean, rtol=0, atol=2e-3)
    # the order is random, so a prefix is a fair sample too
    assert (samples[:2000].double().mean(0) - mean).abs().max() < 0.1
    assert result.samples(0).shape == (0, 2)
    with pytest.raises(TypeError, match="n must be an integer"):
        result.samples(2.5)
    with pytest.raises(ValueError, match="at least 0"):
        result.samples(-1)


def test_populations_with_their_own_targets_count_alike():
    result = run(Tempered(MODEL, torch.tensor([0.5, 1.0, 2.0, 4.0])), particles=100)
    samples = result.samples(400, seed=0)
    for population in result.x:
        hits = (samples[:, None] == population[None]).all(2).any(1).sum()
        assert hits == 100


def test_particles_without_weight_are_never_taken():
    result = run(particles=10, populations=2)
    result.log_weights[:, 3:] = -torch.inf
    result.x[:, 3:] = torch.nan
    assert result.samples(1000).isfinite().all()
    result.degenerate[1] = 2
    result.x[1] = torch.nan
    assert result.samples(1000).isfinite().all()


def test_the_note_says_what_log_z_may_be_compared_with():
    assert "of normalised energies" in run(Tempered(Mixture([MODEL, OTHER]), 2.0)).log_z_note
    learned = EnergyModel(ResidualMLP(2, 8, 1))
    assert "in the gauge" in run(Product([learned, MODEL])).log_z_note
    assert "in the gauge" in run(Conditioned(Tempered(learned, 2.0))).summary()
    assert "in the gauge" in run(ManyWell(2)).log_z_note
    plain = run(MODEL.denoise)
    assert plain.says_no_log_z
    assert "log Z" not in repr(plain)
    reward = run(Tilted(MODEL.denoise, lambda x: x[:, 0], 1.0, ramp=None), sigmas=[*LEVELS, 0.0])
    assert "mean of exp(strength" in reward.log_z_note
    assert "corrector" in run(Tempered(MODEL.denoise, 2.0), weights="score").log_z_note
    assert "normalised densities" in run(Tempered(MODEL.denoise, 2.0)).log_z_note


def test_a_callback_gets_no_energy_from_a_model_without_one():
    seen = []
    run(callback=seen.append)
    assert all(info["energy"].shape == (4, 64) for info in seen)
    assert all(info["log_z"].shape == (4,) for info in seen)
    for target in (MODEL.denoise, Tempered(MODEL.denoise, 2.0), Mixture([MODEL, OTHER])):
        seen.clear()
        run(target, weights="score", callback=seen.append)
        assert [info["energy"] for info in seen] == [None] * len(LEVELS)
        weighed = isinstance(target, Tempered)
        assert all((info["log_z"] is not None) == weighed for info in seen)
