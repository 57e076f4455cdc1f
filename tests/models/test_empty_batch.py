"""Empty batches keep their shapes and dtypes through every model and target."""

from __future__ import annotations

import pytest
import torch

import edmfast
from edmfast import analytic, models
from edmfast.targets import constrained as constraints
from edmfast.targets import measurements

IMAGE, POINTS = (2, 8, 8), (8,)
BACKBONES = {
    "mlp": (lambda **c: models.ResidualMLP(128, 16, 1, **c), IMAGE),
    "unet": (lambda **c: models.UNet(2, (8, 8), groups=4, **c), IMAGE),
    "unet with patches": (lambda **c: models.UNet(2, (8, 8), groups=4, patch=2, **c), IMAGE),
    "dit": (lambda **c: models.DiT(2, 8, depth=1, width=16, heads=2, **c), IMAGE),
    "dit of small patches": (lambda **c: models.DiT(2, 8, 1, 16, 1, 2, **c), IMAGE),
    "pairwise": (lambda **c: models.PairwiseMLP(4, 2, 8, 1, **c), (4, 2)),
    "pairwise of vectors": (lambda **c: models.PairwiseMLP(4, 2, 8, 1, **c), POINTS),
}


def empty(shape, dtype=torch.float32, **options):
    return torch.empty(0, *shape, dtype=dtype, **options)


def check_target(target, shape, dtype=torch.float32, **condition):
    for sigma in (0.7, torch.tensor(0.7, dtype=dtype), torch.empty(0, dtype=dtype)):
        for grad in (False, True):
            x = empty(shape, dtype, requires_grad=grad)
            energy, score = target.energy_and_score(x, sigma, **condition)
            denoised = target(x, sigma, **condition) if callable(target) else score
            assert energy.shape == (0,)
            assert score.shape == denoised.shape == x.shape
            assert {energy.dtype, score.dtype, denoised.dtype} == {dtype}
            if energy.requires_grad:
                (energy.sum() + score.sum() + denoised.sum()).backward()
                assert x.grad.shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("potential", ["inner", "residual", "norm"])
@pytest.mark.parametrize("name", BACKBONES)
def test_backbones(name, potential, dtype):
    make, shape = BACKBONES[name]
    backbone = make().to(dtype)
    model = edmfast.EnergyModel(backbone, potential=potential).to(dtype)
    check_target(model, shape, dtype)
    assert model.energy(empty(shape, dtype), 0.7).shape == (0,)
    denoiser = edmfast.Denoiser(backbone)
    assert denoiser(empty(shape, dtype), 0.7).shape == (0, *shape)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_with_classes(name):
    make, shape = BACKBONES[name]
    model = edmfast.EnergyModel(make(num_classes=3))
    check_target(model, shape, class_label=torch.empty(0, dtype=torch.int64))


GAUSSIANS = analytic.GaussianMixture([[0.0] * 8, [1.0] * 8], [1.0, 0.5])
MANY = analytic.GaussianMixture(torch.randn(100, 8), [1.0] * 100)


def reward(x):
    return x.flatten(1).sum(1)


TARGETS = {
    "mixture by offsets": GAUSSIANS,
    "mixture by products": MANY,
    "full covariances": analytic.MixtureOfGaussians(
        torch.zeros(2, 8), torch.eye(8).expand(2, 8, 8)
    ),
    "many wells": analytic.ManyWell(8),
    "product": edmfast.Product([GAUSSIANS, MANY]),
    "product of networks": edmfast.Product(
        [edmfast.EnergyModel(models.ResidualMLP(8, 16, 1)) for _ in range(2)]
    ),
    "tempered": edmfast.Tempered(GAUSSIANS, 2.0),
    "guided": edmfast.Guided(GAUSSIANS, MANY, 1.5),
    "mixture": edmfast.Mixture([GAUSSIANS, MANY], [0.2, 0.8], ([1.0, 0.1], [[0, 1], [1, 0]])),
    "tilted": edmfast.Tilted(GAUSSIANS, reward, 1.0, gradient="exact"),
    "tilted, approximately": edmfast.Tilted(GAUSSIANS, reward, 1.0, gradient="approximate"),
    "box": edmfast.Constrained(GAUSSIANS, constraints.box(-1, 1), 2.0, hard_below=1.0),
    "half space": edmfast.Constrained(GAUSSIANS, constraints.half_space(torch.ones(8), 1), 2.0),
    "inverse": edmfast.LinearInverse(GAUSSIANS, torch.ones(2, 8), torch.zeros(2), 0.1),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets(name):
    check_target(TARGETS[name], POINTS)


@pytest.mark.parametrize("system", [analytic.DoubleWellPairs(), analytic.LennardJones()])
def test_systems(system):
    shape = (system.particles, system.dimensions)
    energy, score = system.energy_and_score(empty(shape))
    assert (energy.shape, score.shape) == ((0,), (0, *shape))
    assert system.distances(empty(shape)).shape[0] == 0


@pytest.mark.parametrize(
    ("operator", "shape", "observation"),
    [
        (measurements.super_resolution(2), (2, 8, 8), (2, 4, 4)),
        (measurements.deblurring(measurements.gaussian_kernel(1.0)), (2, 8, 8), (2, 8, 8)),
        (measurements.inpainting(torch.arange(128).reshape(2, 8, 8) % 2 == 0), (2, 8, 8), (64,)),
        (((lambda x: x[:, :1]), (lambda y: y.expand(-1, 2, -1, -1))), (2, 8, 8), (1, 8, 8)),
    ],
)
def test_measurements(operator, shape, observation):
    prior = analytic.GaussianMixture([[0.0] * 128], [1.0])
    check_target(edmfast.LinearInverse(prior, operator, torch.zeros(observation), 0.1), shape)


def test_conditions():
    model = edmfast.EnergyModel(models.ResidualMLP(8, 16, 1, num_classes=3))
    bound = edmfast.Conditioned(model, class_label=torch.empty(0, dtype=torch.int64))
    check_target(bound, POINTS)
