"""Test that a population has one condition, because resampling moves particles between slots."""

import pytest
import torch

from edmfast import Conditioned, Tempered, analytic, sampling, smc

MODEL = analytic.GaussianMixture(means=[[-3.0, 0.0], [3.0, 0.0]], stds=[0.9, 0.3])
SIGMAS = sampling.get_sigmas_karras(6, 0.1, 10.0)[:-1]


class Shifted(torch.nn.Module):
    """A model whose density is shifted by its condition."""

    exponent = 1.0

    def energy_and_score(self, x, sigma, move):
        return MODEL.energy_and_score(x - move[:, None], sigma)

    def forward(self, x, sigma, move):
        return MODEL.denoise(x - move[:, None], sigma) + move[:, None]


@pytest.mark.parametrize(("rows", "populations"), [(3, 1), (3, 2), (8, 1), (16, 2), (2, 3)])
def test_several_conditions_in_one_population_are_refused(rows, populations):
    target = Conditioned(Shifted(), move=torch.arange(float(rows)))
    calls = []
    with pytest.raises(ValueError, match="a population must have one condition"):
        smc.sample(
            target, (2,), SIGMAS, particles=8, populations=populations, callback=calls.append
        )
    assert not calls


def test_several_exponents_in_one_population_are_refused():
    with pytest.raises(ValueError, match="exponent"):
        smc.sample(Tempered(MODEL, torch.tensor([1.0, 2.0, 3.0])), (2,), SIGMAS, particles=9)


@pytest.mark.parametrize(("rows", "populations"), [(1, 3), (2, 4), (4, 4)])
def test_one_condition_for_each_population_or_for_several(rows, populations):
    target = Conditioned(Shifted(), move=20.0 * torch.arange(float(rows)))
    run = smc.sample(
        target, (2,), SIGMAS, particles=32, populations=populations, proposal="ancestral",
        options=smc.RunOptions(on_degenerate="ignore"),
    )  # fmt: skip
    place = run.expectation(lambda x: x[..., 0])
    wanted = (20.0 * torch.arange(float(rows))).repeat_interleave(populations // rows)
    assert (place - wanted).abs().max() < 6


def test_particles_that_stay_in_their_slots_may_have_conditions_of_their_own():
    move = 20.0 * torch.arange(8.0)
    kept = smc.sample(
        Conditioned(Shifted(), move=move), (2,), SIGMAS, particles=8, ess_threshold=0.0,
        proposal="ancestral", options=smc.RunOptions(on_degenerate="ignore"),
    )  # fmt: skip
    plain = smc.sample(
        Conditioned(Shifted(), move=move), (2,), SIGMAS, particles=8, weights="score"
    )
    for run in (kept, plain):
        assert (run.x[0, :, 0] - move).abs().max() < 6
