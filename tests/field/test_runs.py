"""Test that problems publicly reported for runs of chains and particles do not occur here."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from edmfast import analytic, sampling, smc
from edmfast.targets import Tempered

MIXTURE = analytic.GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.3, 0.6])
SIGMAS = [5.0, 2.0, 1.0, 0.5, 0.2]


def run(seed=0, **options):
    return smc.sample(Tempered(MIXTURE, 2.0), (2,), SIGMAS, particles=64, seed=seed, **options)


def test_a_run_neither_reads_nor_moves_global_generators():
    """pymc 4938, particles 87: sampling seeded NumPy's global generator, or depended on it. Here the states of the
    generators of torch, NumPy and Python do not change and do not matter.
    """
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = run()
    chain = torch.zeros(1, 4, 2, dtype=torch.float64)
    smc.mcmc(MIXTURE, chain, 0.5, smc.MALA(), transitions=3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    torch.manual_seed(2)
    assert torch.equal(run().x, first.x)


@pytest.mark.parametrize("scheme", ["systematic", "multinomial", "residual", "ssp", "killing"])
def test_the_seed_fixes_a_whole_run(scheme):
    """spf 20: the seed did not reach resampling, so equal runs ended differently. Here it fixes every number."""
    first, again = (run(7, resampling=scheme, ess_threshold=1.0) for _ in range(2))
    assert first.resampled.any()
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.log_weights, again.log_weights)
    assert not torch.equal(run(8, resampling=scheme, ess_threshold=1.0).x, first.x)


def test_hmc_has_the_moments_of_a_gaussian():
    """blackjax 46: Hamiltonian Monte Carlo had the wrong variance on a Gaussian. Here its moments are right."""
    target = analytic.GaussianMixture([[1.0, -2.0]], [2.0])
    start = torch.zeros(1, 500, 2, dtype=torch.float64)
    chains = smc.mcmc(target, start, 0.5, smc.HMC(), transitions=120, warmup=40, thin=8)
    states = chains.states.reshape(-1, 2)
    assert (states.mean(0) - torch.tensor([1.0, -2.0])).abs().max() < 0.1
    assert (states.var(0) - (2.0**2 + 0.5**2)).abs().max() < 0.25


def test_samplers_follow_the_seed_of_torch_alone():
    """pymc 4938 also concerns plain samplers: torch.manual_seed repeats a run, NumPy's seed does not matter."""
    x, sigmas = torch.ones(3, 2), sampling.get_sigmas_karras(6, 0.1, 5.0)

    def drawn(seed):
        torch.manual_seed(seed)
        return sampling.sample_euler_ancestral(MIXTURE.denoise, x, sigmas, disable=True)

    first = drawn(0)
    np.random.seed(5)
    assert torch.equal(drawn(0), first)
    assert not torch.equal(drawn(1), first)


@pytest.mark.parametrize("corrector", [smc.MALA(), smc.HMC()])
def test_chains_that_never_move_are_reported(corrector):
    """flowMC 186: gradients of NaN caused every proposal to be rejected, and the chains stayed put without a
    warning. Here there is a warning.
    """

    class Broken:
        def energy_and_score(self, x, sigma):
            energy, score = MIXTURE.energy_and_score(x, sigma)
            return energy, score * float("nan")

    chains = torch.zeros(1, 8, 2, dtype=torch.float64)
    with pytest.warns(smc.DegenerateWeightsWarning):
        smc.mcmc(Broken(), chains, 0.5, corrector, transitions=3)
