"""Under autocast to bfloat16 on the CPU, energies and scores are float32 and as accurate as plain torch's."""

from __future__ import annotations

import copy

import pytest
import torch

from bench.rivals.plain_networks import by_formula, plain_formulas
from edmfast import EnergyModel, models

NETWORKS = {
    "UNet": lambda: models.UNet(2, (16, 16), groups=4),
    "DiT": lambda: models.DiT(2, 8, patch=2, width=32, depth=2, heads=2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_and_their_gradients_are_as_accurate_as_plain_torchs(name):
    sigma = torch.tensor(0.7)
    errors = torch.zeros(2, 3, dtype=torch.float64)
    for seed in range(3):
        torch.manual_seed(seed)
        model = EnergyModel(NETWORKS[name](), sigma_data=0.5).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
        x = torch.randn(4, 2, 8, 8)

        def orders(model, x, sigma, plain):
            leaf = x.detach().requires_grad_()
            energy = eager(model, leaf, sigma) if plain else model.energy(leaf, sigma)
            (slope,) = torch.autograd.grad(energy.sum(), leaf, create_graph=True)
            (second,) = torch.autograd.grad(slope.square().sum(), leaf)
            return energy.detach(), slope.detach(), second

        with plain_formulas(by_formula):
            truth = orders(copy.deepcopy(model).double(), x.double(), sigma.double(), plain=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mine = orders(model, x, sigma, plain=False)
            with plain_formulas(by_formula):
                rival = orders(model, x, sigma, plain=True)
        for row, values in enumerate((mine, rival)):
            assert {value.dtype for value in values} == {torch.float32}
            for column, (value, exact) in enumerate(zip(values, truth, strict=True)):
                errors[row, column] += (value.double() - exact).norm() / exact.norm()
    assert (errors[0] <= 2 * errors[1]).all()


def eager(model, x, sigma):
    """Return the formula of the energy as a user would write it."""
    y = (sigma**2 + model.sigma_data**2).rsqrt() * x
    f = model.potential(y, sigma.expand(len(x)).log() / 4)
    return 0.5 * y.square().flatten(1).sum(1) - model.sigma_data / sigma * f
