"""Test that a population has the bits it has alone, at any thread count and when subnormal numbers are flushed."""

from __future__ import annotations

import pytest
import torch

from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.models import EnergyModel, ResidualMLP
from edmfast.targets import Product


def network(seed, dim=39, width=64):
    generator = torch.Generator().manual_seed(seed)
    model = EnergyModel(ResidualMLP(dim, width=width, depth=2))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)
    return model


def pair():
    return Product([network(0), network(1)], [1.0, 0.5])


def modes():
    generator = torch.Generator().manual_seed(2)
    return GaussianMixture(torch.randn(12, 39, generator=generator), [0.3] * 12)


TARGETS = {
    "network": lambda: network(0),
    "narrow": lambda: network(0, 3, 20),
    "pair": pair,
    "modes": modes,
}
DIM = {"narrow": 3}


def sample(name, populations, proposal="curvature_matched", **options):
    sigmas = torch.linspace(3.0, 0.3, 6).tolist()
    return smc.sample(
        TARGETS[name](),
        (DIM.get(name, 39),),
        sigmas,
        particles=20,
        populations=populations,
        proposal=proposal,
        ess_threshold=1.0,
        options=smc.RunOptions(dtype=torch.float32),
        **options,
    )


def same_first_population(alone, several):
    return all(
        torch.equal(getattr(alone, part)[0], getattr(several, part)[0])
        for part in ("x", "log_weights", "log_z")
    )


@pytest.mark.parametrize("threads", [4, 8])
@pytest.mark.parametrize("proposal", ["curvature_matched", "noise_matched"])
@pytest.mark.parametrize("name", TARGETS)
def test_a_population_has_the_bits_it_has_alone(name, proposal, threads, with_threads):
    with with_threads(threads):
        assert same_first_population(sample(name, 1, proposal), sample(name, 12, proposal))


@pytest.mark.parametrize("threads", [4, 8])
def test_chains_have_the_bits_they_have_alone(threads, with_threads):
    def chains(count):
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(30, 1, 39, generator=generator)[:count]
        return smc.mcmc(network(0), start, 0.5, smc.MALA(), transitions=4, seed=1).states

    with with_threads(threads):
        assert torch.equal(chains(1)[:, 0], chains(30)[:, 0])


def test_subnormal_numbers_do_not_change_a_run(flushing):
    wanted = sample("modes", 2)
    with flushing():
        flushed = sample("modes", 2)
    assert torch.equal(flushed.x, wanted.x)
    assert torch.equal(flushed.log_weights, wanted.log_weights)
