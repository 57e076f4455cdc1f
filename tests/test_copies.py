"""Every target, proposal, corrector and result can be pickled and deep-copied, and then gives the same numbers."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import pytest
import torch

from edmfast import smc
from edmfast.analytic import (
    DoubleWellPairs,
    GaussianMixture,
    LennardJones,
    ManyWell,
)
from edmfast.analytic.systems import ParticleSystem
from edmfast.distill import DistillConfig
from edmfast.models import Denoiser, DiT, EnergyModel, PairwiseMLP, ResidualMLP, UNet
from edmfast.targets import (
    Conditioned,
    Constrained,
    Guided,
    LinearInverse,
    Mixture,
    Offsets,
    Product,
    Tempered,
    Tilted,
)
from edmfast.targets.constrained import box, half_space
from edmfast.targets.inverse import likelihood_schedule
from edmfast.targets.measurements import deblurring, inpainting, super_resolution

BASE = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.4, 0.6])
IMAGES = (1, 4, 4)


def first(x):
    return x[:, 0]


def forth(x):
    return 2 * x


def network(**options):
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(2, width=8, depth=1, embedding_width=8, **options))
    torch.nn.init.normal_(model.backbone.output.weight)
    return model


def compiled():
    model = network()
    model.compile()
    model.energy_and_score(torch.zeros(3, 2), 0.5)
    return model


TARGETS = {
    "mixture of gaussians": (BASE, (2,)),
    "many wells": (ManyWell(4), (4,)),
    "lennard-jones": (LennardJones(3), (9,)),
    "double wells": (DoubleWellPairs(), (8,)),
    "perceptron": (network(), (2,)),
    "compiled": (compiled(), (2,)),
    "pairwise": (EnergyModel(PairwiseMLP(3, 2, width=8, depth=1)), (6,)),
    "unet": (EnergyModel(UNet(1, (8,), groups=4)), IMAGES),
    "dit": (EnergyModel(DiT(1, 4, patch=2, width=8, depth=1, heads=2)), IMAGES),
    "denoiser": (Denoiser(ResidualMLP(2, width=8, depth=1)), (2,)),
    "tempered": (Tempered(BASE, torch.tensor([2.0])), (2,)),
    "product": (Product([BASE, network()], [1.0, 0.5]), (2,)),
    "guided": (Guided(BASE, network(), 2.0), (2,)),
    "mixture": (Mixture([BASE, network()], offsets=([1.0], [[0.0, 1.0]])), (2,)),
    "conditioned": (Conditioned(network(num_classes=3), class_label=1), (2,)),
    "tilted": (Tilted(BASE, first, 1.0, gradient="exact"), (2,)),
    "tilted by a half-space": (Tilted(BASE, half_space(torch.ones(2), 0.5), 1.0), (2,)),
    "constrained": (Constrained(BASE, box(0.0, 1.0), 1.0, hard_below=0.1), (2,)),
    "inverse": (LinearInverse(BASE, torch.eye(2), torch.ones(2), 0.5), (2,)),
    "inverse of the denoised": (
        LinearInverse(BASE, (forth, forth), torch.ones(2), 0.5, of="denoised"),
        (2,),
    ),
    "inpainting": (
        LinearInverse(network(), inpainting(torch.tensor([True, False])), torch.ones(1), 0.5),
        (2,),
    ),
}


def copies(thing):
    return [copy.copy(thing), copy.deepcopy(thing), pickle.loads(pickle.dumps(thing))]


@pytest.mark.parametrize("name", TARGETS)
def test_targets(name):
    target, shape = TARGETS[name]
    sigma = (
        0.0 if isinstance(target, ParticleSystem) else 0.3
    )  # These densities are known only without noise.
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    for twin in copies(target):
        for method in ("energy_and_score", "forward"):
            if not hasattr(target, method) or (method == "forward" and not sigma):
                continue
            expected, copied = getattr(target, method)(x, sigma), getattr(twin, method)(x, sigma)
            pairs = (
                [(expected, copied)]
                if isinstance(expected, torch.Tensor)
                else zip(expected, copied, strict=True)
            )
            assert all(torch.equal(a, b) for a, b in pairs)


MEASUREMENTS = [
    inpainting(torch.ones(IMAGES).bool()),
    super_resolution(2),
    deblurring(torch.ones(3, 3)),
]


@pytest.mark.parametrize("operator", MEASUREMENTS)
def test_measurements(operator):
    x = torch.randn(2, *IMAGES, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(twin(x), operator(x)) for twin in copies(operator))


@pytest.mark.parametrize("of", ["state", "denoised"])
def test_schedules(of):
    alpha = likelihood_schedule(0.3, of)
    levels = torch.tensor([0.01, 0.1, 1.0, 10.0], dtype=torch.float64)
    for twin in copies(alpha):
        assert torch.equal(twin(levels), alpha(levels))
        assert twin(0.7) == alpha(0.7)


PLAIN = [
    smc.Euler(),
    smc.Ancestral(),
    smc.NoiseMatched(0.5),
    smc.CurvatureMatched(),
    smc.CurvatureMatched((1.0, 0.5)),
    smc.FeynmanKacProposal(),
    smc.SuperDiff(),
    smc.ULA(2),
    smc.MALA(2),
    smc.HMC(2),
    smc.Underdamped(2),
    smc.Calibration((2.0, 1.0), (0.5,), (0.1,)),
    Offsets((2.0, 1.0), ((0.0, 1.0), (0.0, 2.0))),
    DistillConfig(steps=3),
]


@pytest.mark.parametrize("thing", PLAIN, ids=lambda thing: type(thing).__name__)
def test_proposals_correctors_and_tables(thing):
    for twin in copies(thing):
        assert type(twin) is type(thing)
        assert repr(twin) == repr(thing)


def test_particles():
    result = smc.sample(
        BASE,
        (2,),
        [4.0, 1.0, 0.3],
        particles=8,
        populations=2,
        options=smc.RunOptions(genealogy=True),
    )
    for twin in copies(result):
        for field in dataclasses.fields(result):
            value, other = getattr(result, field.name), getattr(twin, field.name)
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, other), field.name
            else:
                assert value == other or (math.isnan(value) and math.isnan(other)), field.name


def test_a_copied_target_runs_to_the_same_bits():
    target = LinearInverse(BASE, torch.eye(2), torch.ones(2), 0.5, full_below=0.3)
    runs = [
        smc.sample(twin, (2,), [4.0, 1.0, 0.3], particles=8).x for twin in (target, *copies(target))
    ]
    assert all(torch.equal(run, runs[0]) for run in runs)
