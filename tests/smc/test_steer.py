"""Steering of many prompts follows its laws, agrees with loops over prompts, and keeps prompts independent."""

import itertools
import math

import pytest
import torch

from edmfast import Conditioned, smc
from edmfast.analytic import GaussianMixture
from tests.grouped import grouped

LEVELS = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25]


def standard(x, sigma):
    """The denoiser of N(0, I)."""
    return x / (1 + sigma.view(-1, 1) ** 2)


def first_coordinate(x):
    return x[:, 0]


def chain_variance():
    """Return the variance of the ancestral sampler of N(0, 1), and the slope of its last denoising step."""
    variance = LEVELS[0] ** 2
    for s, u in itertools.pairwise(LEVELS):
        slope = 1 - (s**2 - u**2) / (1 + s**2)
        variance = slope**2 * variance + (s**2 - u**2) * u**2 / s**2
    return variance, 1 / (1 + LEVELS[-1] ** 2)


def steered(method, candidates, prompts=4000, **options):
    options = {"dtype": torch.float64, "seed": 3, **options}
    return smc.steer(
        standard,
        first_coordinate,
        (2,),
        LEVELS,
        **grouped(prompts=prompts, candidates=candidates, method=method, **options),
    )


def within(values, truth):
    assert abs(float(values.mean()) - truth) < 3 * float(values.std()) / math.sqrt(len(values))


@pytest.mark.parametrize("method", ["fk", "svdd", "best_of_n"])
def test_one_candidate_is_the_plain_sampler(method):
    variance, slope = chain_variance()
    result = steered(method, 1)
    within(result.rewards, 0.0)
    within(result.samples[:, 0].square(), variance * slope**2)


@pytest.mark.parametrize("potential", ["difference", "max"])
def test_many_candidates_tend_to_the_tilted_law(potential):
    variance, slope = chain_variance()
    result = steered("fk", 300, prompts=600, potential=potential, strength=0.8)
    within(result.samples[:, 0], 0.8 * variance * slope**2)
    within(result.samples[:, 1], 0.0)


def test_best_of_n_is_the_highest_reward():
    result = steered("best_of_n", 8, prompts=500)
    assert torch.equal(result.rewards, result.candidate_rewards.max(1).values)
    assert torch.equal(result.samples[:, 0], result.rewards)
    assert not bool(result.candidates.resampled.any())
    plain = smc.sample(standard, (2,), [*LEVELS, 0.0], particles=8, populations=500, seed=3,
                       weights="score", options=smc.RunOptions(dtype=torch.float64))  # fmt: skip
    assert torch.equal(plain.x, result.candidates.x)


def svdd_by_loop(prompts, candidates, alpha):
    """Soft value decoding by its definition, one prompt at a time, with its own generator."""
    generator = torch.Generator().manual_seed(0)
    rewards = []
    for _ in range(prompts):
        x = LEVELS[0] * torch.randn(candidates, 2, generator=generator).double()
        for s, u in zip(LEVELS, [*LEVELS[1:], None], strict=True):
            value = x[:, 0] / (1 + s**2) / alpha
            chosen = torch.multinomial(torch.softmax(value, 0), 1, generator=generator)
            if u is None:
                rewards.append(float(x[chosen, 0] / (1 + s**2)))
                break
            tau2, state = s**2 - u**2, x[chosen]
            mean = state + tau2 * (state / (1 + s**2) - state) / s**2
            noise = torch.randn(candidates, 2, generator=generator).double()
            x = mean + math.sqrt(tau2) * u / s * noise
    return torch.tensor(rewards)


def test_svdd_agrees_with_its_definition():
    result = steered("svdd", 4, strength=2.0)
    loop = svdd_by_loop(3000, 4, 0.5)
    gap = float(result.rewards.mean() - loop.mean())
    error = math.sqrt(float(result.rewards.var()) / 4000 + float(loop.var()) / 3000)
    assert abs(gap) < 3 * error
    assert result.rewards.mean() > 3 * error
    # all descend from one candidate at every level but the last, where there is no selection
    assert bool(result.candidates.resampled[:-1].all())
    assert bool((result.candidates.unique_ancestors == 1).all())


def test_more_candidates_have_higher_rewards():
    for method in ("fk", "svdd", "best_of_n"):
        means = [steered(method, n, prompts=1000).rewards.mean() for n in (1, 4, 16)]
        assert means[0] < means[1] < means[2], method


class ClassMean:
    """A denoiser whose condition is the mean of the data."""

    def __call__(self, x, sigma, *, mean):
        return mean[:, None] + (x - mean[:, None]) / (1 + sigma[:, None] ** 2)


class NearTo(torch.nn.Module):
    """A reward with one place for each prompt."""

    def __init__(self, place):
        super().__init__()
        self.place = place

    def forward(self, x):
        return -(x[:, 0] - self.place).square()

    def for_rows(self, start, stop, batch):
        return NearTo(self.place[torch.arange(start, stop) // (batch // len(self.place))])


@pytest.mark.parametrize("method", ["fk", "svdd", "best_of_n"])
def test_a_prompt_does_not_depend_on_the_others(method):
    means = torch.linspace(-5, 5, 1000, dtype=torch.float64)
    places = means + 0.5

    def run(part, first):
        return smc.steer(
            Conditioned(ClassMean(), mean=means[part]),
            NearTo(places[part]),
            (2,),
            LEVELS,
            prompts=len(means[part]),
            candidates=4,
            method=method,
            strength=3.0,
            options=smc.RunOptions(dtype=torch.float64),
            distribution=smc.Distribution(first_population=first),
        )

    together, alone = run(slice(None), 0), run(slice(700, 703), 700)
    assert torch.equal(together.samples[700:703], alone.samples)
    assert torch.equal(together.rewards[700:703], alone.rewards)
    # E (x - mean - 0.5)² of the plain sampler, whose variance is a little below 1
    plain_gap = 1.0 + 0.25
    assert float(-together.rewards.mean()) < 0.8 * plain_gap


def test_energies_and_unknown_methods():
    energy = GaussianMixture(torch.zeros(1, 2), [1.0])
    result = smc.steer(energy, first_coordinate, (2,), LEVELS, prompts=3, candidates=4)
    assert result.samples.shape == (3, 2)
    with pytest.raises(ValueError, match=r"unknown method.*svdd"):
        steered("magic", 4, prompts=1)
    with pytest.raises(ValueError, match="potential"):
        steered("fk", 4, prompts=1, potential="min")
