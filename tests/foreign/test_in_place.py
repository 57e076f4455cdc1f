"""Callables that change their input in place, or that reuse their output buffers, change nothing else."""

import pytest
import torch
from torch import nn

import edmfast
from edmfast import Conditioned, EnergyModel, LinearInverse, Tilted, models, sampling, smc
from tests.foreign.entries import DATA, DENOISERS, ENERGIES, LEVELS, NORMAL
from tests.foreign.wrappers import SHAPE, like_states, plain
from tests.grouped import grouped


def changing(x, sigma):
    """Return the denoised states of N(0, I), written over the states, and overwrite the noise levels too."""
    sigma.square_().add_(1)
    return x.div_(like_states(sigma, x))


class Buffered:
    """A denoiser that returns the same tensor at every call with states of one size."""

    def __init__(self):
        self.answers = {}

    def __call__(self, x, sigma):
        answer = self.answers.setdefault((x.shape, x.dtype), torch.empty_like(x))
        return answer.copy_(plain(x, sigma))


class ChangingEnergy:
    exponent = 1.0

    def energy_and_score(self, x, sigma):
        energy, score = NORMAL.energy_and_score(x.clone(), sigma)
        x.mul_(0)
        if isinstance(sigma, torch.Tensor) and not sigma.requires_grad:
            sigma.mul_(0)
        return energy, score


class BufferedEnergy:
    """An energy that returns the same pair of tensors at every call of one size, where no graph is recorded."""

    exponent = 1.0

    def __init__(self):
        self.answers = {}

    def energy_and_score(self, x, sigma):
        results = NORMAL.energy_and_score(x, sigma)
        if results[1].requires_grad:
            return results
        buffers = self.answers.setdefault((x.shape, x.dtype), tuple(map(torch.empty_like, results)))
        return tuple(place.copy_(part) for place, part in zip(buffers, results, strict=True))


# these take derivatives through the model, so that reusing a tensor of an earlier graph is an error
DIFFERENTIATED = {"Tilted exact", "score_asymmetry", "conservativity_report"}


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("culprit", [changing, Buffered()], ids=["changing", "buffered"])
def test_denoisers(name, culprit):
    if isinstance(culprit, Buffered) and name in DIFFERENTIATED:
        pytest.skip("a buffer has no graph")
    data = DATA.clone()
    torch.testing.assert_close(DENOISERS[name](culprit), DENOISERS[name](plain))
    assert torch.equal(DATA, data)


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("culprit", [ChangingEnergy, BufferedEnergy])
def test_energies(name, culprit):
    data = DATA.clone()
    wanted = ENERGIES[name](NORMAL)
    torch.testing.assert_close(ENERGIES[name](culprit()), wanted, equal_nan=True)
    assert torch.equal(DATA, data)


def test_rewards_and_operators():
    def run(reward, **options):
        target = Tilted(NORMAL, reward, 0.1, ramp=(2.0, 0.3), **options)
        return smc.sample(target, SHAPE, LEVELS, particles=8).x

    for options in ({}, {"gradient": "exact"}, {"of": "state"}, {"potential": "max"}):
        wanted = run(lambda x: x.flatten(1).mean(1), **options)
        torch.testing.assert_close(run(lambda x: x.div_(16).flatten(1).sum(1), **options), wanted)

    def measured(operator):
        target = LinearInverse(NORMAL, operator, torch.ones(3), 0.5, full_below=0.3)
        return smc.sample(target, SHAPE, LEVELS, particles=8).x

    there, back = (lambda x: x.flatten(1)[:, :3]), (lambda y: nn.functional.pad(y, (0, 13)))
    pure = measured((there, lambda y: back(y).view(-1, *SHAPE)))
    changed = measured(
        (lambda x: there(x.mul_(2)) / 2, lambda y: back(y.mul_(2)).view(-1, *SHAPE) / 2)
    )
    assert torch.equal(pure, changed)
    assert torch.equal(measured(lambda x: there(x.mul_(1))), measured(there))


class Network(nn.Module):
    def __init__(self, change):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.change = nn.Linear(4, 4), change

    def forward(self, y, c_noise, scale=None):
        if self.change:
            h = y.mul_(2).add_(like_states(c_noise.mul_(3), y))
            scale = None if scale is None else scale.mul_(2)
        else:
            h = 2 * y + like_states(3 * c_noise, y)
            scale = None if scale is None else 2 * scale
        h = self.layer(h)
        return h if scale is None else h * like_states(scale, h)


def test_backbones():
    scale = torch.full((16,), 0.5)
    for potential in models.potentials.POTENTIALS:
        plain, changing_model = (
            EnergyModel(Network(change), potential=potential) for change in (False, True)
        )
        for x in (DATA, DATA.clone().requires_grad_()):
            for condition in ({}, {"scale": scale}):
                for sigma in (0.5, torch.full((16,), 0.5)):
                    wanted, result = (
                        m.energy_and_score(x, sigma, **condition) for m in (plain, changing_model)
                    )
                    torch.testing.assert_close(result, wanted)
                    arguments = x, sigma
                    torch.testing.assert_close(
                        changing_model.energy(*arguments, **condition),
                        plain.energy(*arguments, **condition),
                    )
                    torch.testing.assert_close(
                        changing_model(*arguments, **condition), plain(*arguments, **condition)
                    )
    wanted, result = (edmfast.Denoiser(Network(change))(DATA, 0.5) for change in (False, True))
    torch.testing.assert_close(result, wanted)
    assert torch.equal(scale, torch.full((16,), 0.5))


def test_conditions_are_copies():
    label = torch.full((8,), 2.0)

    def denoiser(x, sigma, label):
        return plain(x, sigma) * like_states(label.mul_(0.5), x)

    smc.sample(Conditioned(denoiser, label=label), SHAPE, LEVELS, particles=8)
    sampling.sample_euler(denoiser, DATA[:8], torch.tensor(LEVELS), {"label": label})
    assert torch.equal(label, torch.full((8,), 2.0))


def spoil(info):
    for value in info.values():
        if isinstance(value, torch.Tensor):
            value.mul_(0)


def test_callbacks():
    options = {"particles": 8, "correctors": smc.MALA()}
    wanted = smc.sample(NORMAL, SHAPE, LEVELS, **grouped(**options))
    result = smc.sample(NORMAL, SHAPE, LEVELS, callback=spoil, **grouped(**options))
    assert torch.equal(result.x, wanted.x)
    assert torch.equal(result.log_z, wanted.log_z)
    chains = [
        smc.mcmc(NORMAL, DATA[None], 0.5, smc.MALA(), transitions=3, callback=callback)
        for callback in (None, spoil)
    ]
    assert torch.equal(chains[0].states, chains[1].states)
    assert torch.equal(chains[0].energies, chains[1].energies)


def test_functions_of_an_expectation():
    result = smc.sample(NORMAL, SHAPE, LEVELS, particles=8)
    before = result.x.clone()
    result.expectation(lambda x: x.mul_(0))
    result.expectation_estimate(lambda x: x.mul_(0))
    assert torch.equal(result.x, before)


def test_noise_and_levels_of_plain_samplers():
    sigmas, x = torch.tensor(LEVELS), DATA.clone()

    def noise(*levels):
        for level in levels:
            level.mul_(0)
        return torch.zeros_like(DATA)

    sampling.sample_euler_ancestral(
        plain, x, sigmas, callback=lambda info: info["sigma"].mul_(0), noise_sampler=noise
    )
    assert torch.equal(sigmas, torch.tensor(LEVELS))
    assert torch.equal(x, DATA)
    wanted, result = (
        sampling.edm_sampler(plain, DATA, num_steps=3, randn_like=draw)
        for draw in (torch.zeros_like, lambda x: x.zero_())
    )
    assert torch.equal(result, wanted)


def test_a_callback_of_a_plain_sampler_acts_on_the_run():
    """A preview callback may change the states in place, which k-diffusion allows and users rely on."""
    x = DATA.clone()
    moved = sampling.sample_dpmpp_2m(
        plain, x, torch.tensor(LEVELS), callback=lambda info: info["x"].mul_(0)
    )
    assert torch.equal(x, DATA)
    assert not torch.equal(moved, sampling.sample_dpmpp_2m(plain, x, torch.tensor(LEVELS)))


def test_teachers_train_as_they_would():
    """A teacher that sets its input to zero must not change the states that the student sees."""

    def emptying(x, sigma):
        answer = plain(x, sigma)
        x.mul_(0)
        return answer

    assert torch.equal(DENOISERS["distill"](emptying), DENOISERS["distill"](plain))
