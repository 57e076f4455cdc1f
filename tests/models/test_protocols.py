"""Every energy of the package satisfies the protocol Target, and a plain denoiser does not."""

from __future__ import annotations

import pytest
import torch

from edmfast import Denoiser, EnergyModel, Product, Tempered
from edmfast.analytic import DoubleWellPairs, LennardJones, ManyWell, gmm40
from edmfast.models import ResidualMLP, protocols


def model():
    return EnergyModel(ResidualMLP(2, width=8, depth=1))


@pytest.mark.parametrize(
    "target",
    [
        model(),
        gmm40(),
        ManyWell(2),
        DoubleWellPairs(),
        LennardJones(),
        Product([model(), gmm40()]),
        Tempered(gmm40(), 2.0),
    ],
    ids=lambda target: type(target).__name__,
)
def test_an_energy_is_a_target(target):
    assert isinstance(target, protocols.Target)
    assert torch.as_tensor(target.exponent).gt(0).all()


def test_a_denoiser_is_no_target():
    assert not isinstance(Denoiser(ResidualMLP(2, width=8, depth=1)), protocols.Target)
