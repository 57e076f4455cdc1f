"""Test reference chains of two particles against integrals over their distance, and that learned energies run."""

import math

import pytest
import torch

from bench.studies.targets import chains as targets_chains
from bench.studies.targets import particles as targets_particles
from edmfast import analytic


@pytest.mark.parametrize(
    "system",
    [analytic.DoubleWellPairs(2, 2, b=-0.5), analytic.LennardJones(2, 3, eps=1.0)],
    ids=["double well", "Lennard-Jones"],
)
def test_chains_of_two_particles_have_the_law_of_their_distance(system):
    r = torch.linspace(0.3, 9, 20001, dtype=torch.float64)
    pair = torch.zeros(len(r), 2, system.dimensions, dtype=torch.float64)
    pair[:, 1, 0] = r
    density = (-system.energy(pair)).exp() * r ** (system.dimensions - 1)
    truth = float((density * r).sum() / density.sum())
    chains = targets_chains.run(
        system, chains=200, burn_in=150, draws=10, thin=6, leapfrog=6, step=0.1
    )
    distance = system.distances(chains.pooled).reshape(chains.x.shape[:2])
    means = distance.mean(0)
    error = float(means.std()) / math.sqrt(len(means))
    assert abs(float(means.mean()) - truth) < 3 * error < 0.06 * truth
    assert chains.x.mean(2).abs().max() < 1e-12
    assert 0.6 < chains.acceptance < 0.95
    assert targets_chains.mixing(distance) < 1.1


def test_mixing_tells_chains_that_stay_apart():
    draw = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    assert abs(targets_chains.mixing(draw) - 1) < 0.02
    assert targets_chains.mixing(draw + 5 * torch.arange(40)) > 10


@pytest.mark.parametrize("name", targets_particles.PLANS)
def test_learned_energies_run_through(name):
    rows = targets_particles.run(name, quick=True)
    values = {(row.run, row.quantity): row.value for row in rows}
    assert 0 < values["reweighted to the true energy", "effective sample size / N"] <= 1
    assert values["learned energy", "distance W2"] > 0
    assert all(math.isfinite(row.value) for row in rows if row.quantity != "energy, mean")
