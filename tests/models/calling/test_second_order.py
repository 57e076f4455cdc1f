"""All code that differentiates a score raises an error that names the cure for torch's attention."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import edmfast
from edmfast import (
    Conditioned,
    DistillConfig,
    Product,
    Tempered,
    Tilted,
    analytic,
    diagnostics,
    models,
    smc,
)
from edmfast.models import Denoiser, EnergyModel, patch_attention

LEVELS = [10.0, 1.0, 0.1]
X = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(1))


class Attending(nn.Module):
    """A network on tokens with torch's attention, which does not use this package."""

    def __init__(self, attend=None):
        super().__init__()
        self.qkv, self.out, self.level = nn.Linear(4, 24), nn.Linear(8, 4), nn.Linear(1, 4)
        self.attend = attend

    def forward(self, y, c_noise):
        y = y + self.level(c_noise[:, None])[:, None]
        q, k, v = self.qkv(y)[:, None].chunk(3, -1)
        attend = self.attend or F.scaled_dot_product_attention
        return self.out(attend(q, k, v)[:, 0])


def energy(attend=None):
    torch.manual_seed(0)
    return EnergyModel(Attending(attend))


class Wrapped(nn.Module):
    """A foreign energy, whose score comes from autograd alone."""

    exponent = 1.0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = Attending()

    def energy_and_score(self, x, sigma):
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            c_noise = x.new_full((len(x),), 0.1)
            value = self.network(x, c_noise).square().flatten(1).sum(1)
            (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return value, -slope


def teacher(x, sigma):
    return x / (1 + 4 * sigma.view(-1, 1, 1) ** 2)


def train(model):
    config = DistillConfig(steps=2, batch_size=4)
    return edmfast.distill(teacher, model, X, config=config, progress=False).losses


def through(x0):
    return -x0.square().flatten(1).sum(1)


def differentiated(model):
    x = X.clone().requires_grad_()
    value, score = model.energy_and_score(x, 0.5)
    (value.sum() + score.square().sum()).backward()
    return x.grad


TRAJECTORY = [X, 0.5 * X, 0.1 * X]
CALLS = {
    "backward": differentiated,
    "distill": train,
    "smc": lambda model: smc.sample(model, (5, 4), LEVELS, particles=4).x,
    "calibrate": lambda model: torch.tensor(
        smc.calibrate(model, (5, 4), LEVELS, particles=4, pilot_steps=4).kappa
    ),
    "tempered": lambda model: smc.sample(Tempered(model, 2.0), (5, 4), LEVELS, particles=4).x,
    "tilted": lambda model: Tilted(model, through, 1.0, gradient="exact", ramp=None)(X, 0.5),
    "asymmetry": lambda model: (
        # for an energy this would be a third derivative
        diagnostics.score_asymmetry(Denoiser(model.backbone), X, 0.5, method="reverse").asymmetry
    ),
    "fokker_planck": lambda model: (
        diagnostics.fokker_planck(model, TRAJECTORY, LEVELS, probes=1).residuals
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_error_names_the_cure(call):
    with pytest.raises(RuntimeError, match="patch_attention"):
        call(energy())


@pytest.mark.parametrize("name", ["smc", "fokker_planck", "tilted"])
def test_foreign_energies_too(name):
    with pytest.raises(RuntimeError, match="patch_attention"):
        CALLS[name](Wrapped())
    assert CALLS[name](patch_attention(Wrapped())).isfinite().all()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_patching_the_model_covers_every_method(call):
    inside, outside = energy(), energy()
    patch_attention(inside.backbone)
    assert patch_attention(outside) is outside
    result = call(outside)
    assert result.isfinite().all()
    assert torch.equal(result, call(inside))


def test_patched_in_a_target_and_compiled():
    model = energy()
    target = Product([Conditioned(model), analytic.GaussianMixture([[0.0] * 4], [1.0])])
    patch_attention(target)
    wanted = model.energy_and_score(X, 0.5)
    model.compile()
    for result in (model.energy_and_score(X, 0.5), copy.deepcopy(model).energy_and_score(X, 0.5)):
        torch.testing.assert_close(result, wanted)
    torch.save(model, io.BytesIO())
    differentiated(model)


def test_our_own_networks_are_left_alone():
    model = EnergyModel(models.ResidualMLP(20))
    patch_attention(Tempered(model, 2.0))
    assert all("forward" not in vars(part) for part in model.modules())


def test_first_derivatives_and_other_errors_are_as_they_were():
    x = X.clone().requires_grad_()
    value, score = energy().energy_and_score(x, 0.5)
    value.sum().backward()
    assert torch.allclose(x.grad, -score, atol=1e-5)

    def broken(q, k, v):
        raise RuntimeError("another fault")

    with pytest.raises(RuntimeError, match=r"^another fault$"):
        differentiated(energy(broken))


def test_only_modules_are_patched():
    with pytest.raises(TypeError, match="given teacher"):
        patch_attention(teacher)
