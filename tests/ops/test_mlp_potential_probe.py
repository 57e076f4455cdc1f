"""Energies, fields and second derivatives along a direction equal autograd, and a sampler's probe takes them."""

from __future__ import annotations

import pytest
import torch

from edmfast import smc
from edmfast.models import EnergyModel, ResidualMLP
from edmfast.models.together import energy_score_and_curvature
from edmfast.ops.mlp_potential.operator import mlp_potentials, mlp_potentials_probed
from edmfast.smc.feynman_kac import evaluate as evaluation
from tests.ops.test_mlp_potential import DOUBLE, SIZES, arguments, by_autograd, close, draw


def direction(x):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(x.shape, generator=generator, dtype=DOUBLE).to(x.dtype)


def by_two_derivatives(x, v, numbers, shifts, networks):
    leaf = x.double().requires_grad_()
    energies, fields = by_autograd(leaf, numbers, shifts, networks)
    bent = [
        (torch.autograd.grad(field, leaf, v.double(), retain_graph=True)[0] * v.double()).sum(1)
        for field in fields
    ]
    return energies.detach(), fields.detach(), torch.stack(bent)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_it_equals_autograd(size, dtype, shared):
    x, *rest = draw(size, dtype, shared)
    v = direction(x)
    results = mlp_potentials_probed(x, v, *rest)
    truths = by_two_derivatives(x, v, *rest)
    for ours, truth, units in zip(results, truths, (200, 200, 2000), strict=True):
        close(ours, truth, dtype, units)
    assert [each.dtype for each in results] == [dtype, dtype, DOUBLE]


def test_energies_and_fields_have_the_bits_of_a_call_without_a_probe():
    x, *rest = draw((2, 96, 64, 32, 3), torch.float32)
    for ours, plain in zip(
        mlp_potentials_probed(x, direction(x), *rest), mlp_potentials(x, *rest), strict=False
    ):
        torch.testing.assert_close(ours, plain, rtol=2e-5, atol=2e-5)


def test_bits_depend_neither_on_the_batch_nor_on_the_threads(with_threads):
    x, numbers, shifts, networks = draw((2, 2000, 64, 32, 3), torch.float32)
    v = direction(x)

    def run(part=slice(None)):
        rest = numbers[:, part], [s[part] for s in shifts], networks
        return mlp_potentials_probed(x[part], v[part], *rest)

    with with_threads(1):
        whole = run()
    for threads in (1, 2):
        with with_threads(threads):
            for start, rows in ((0, 2000), (0, 32), (7, 48), (100, 1120), (16, 1984)):
                part = slice(start, start + rows)
                for ours, all_rows in zip(run(part), whole, strict=True):
                    assert torch.equal(ours, all_rows[:, part])


def test_opcheck():
    x, *rest = arguments((2, 33, 4, 8, 2))
    torch.library.opcheck(torch.ops.edmfast.mlp_potential_probe.default, (x, direction(x), *rest))


def test_padded_rows_and_shapes():
    x, *rest = draw((1, 40, 6, 8, 2))
    v = direction(x)
    wanted = mlp_potentials_probed(x, v, *rest)
    energies, fields, bent = mlp_potentials_probed(x.reshape(40, 2, 3), v.reshape(40, 2, 3), *rest)
    assert fields.shape == (1, 40, 2, 3)
    for ours, truth in zip((energies, fields.flatten(2), bent), wanted, strict=True):
        close(ours, truth, DOUBLE)


def test_errors():
    x, *rest = draw((1, 4, 3, 8, 2), torch.float32)
    with pytest.raises(ValueError, match=r"v must be like x, torch.float32 \(4, 3\)"):
        mlp_potentials_probed(x, x.double(), *rest)
    with pytest.raises(ValueError, match=r"got torch.float32 \(3, 3\)"):
        mlp_potentials_probed(x, x[:3], *rest)
    with pytest.raises(RuntimeError, match="has no derivative"):
        mlp_potentials_probed(x.requires_grad_(), torch.ones(4, 3), *rest)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = EnergyModel(ResidualMLP(3, width=16, depth=2))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return model


def test_a_model_gives_its_curvature(model):
    x, v = torch.randn(2, 5, 3).unbind()
    for sigma in (0.7, torch.linspace(0.5, 2, 5)):
        energy, score, bent = energy_score_and_curvature(model, x, sigma, v)
        leaf = x.clone().requires_grad_()
        wanted, slope = model.energy_and_score(leaf, sigma)
        (product,) = torch.autograd.grad(slope, leaf, v)
        torch.testing.assert_close(energy, wanted.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(score, slope.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(bent.float(), (product * v).sum(1), rtol=1e-4, atol=1e-4)
        assert not any(result.requires_grad for result in (energy, score, bent))


def test_a_changed_score_is_differentiated_itself(model):
    class Doubled(EnergyModel):
        def energy_and_score(self, x, sigma, **condition):
            energy, score = super().energy_and_score(x, sigma, **condition)
            return 2 * energy, 2 * score

    changed = Doubled(model.backbone)
    x = torch.randn(5, 3)
    assert energy_score_and_curvature(changed, x, 1.0, torch.ones_like(x)) is None
    model.energy_and_score = lambda *_: None
    assert energy_score_and_curvature(model, x, 1.0, torch.ones_like(x)) is None


def test_runs_with_probes_agree_with_those_that_differentiate(model, monkeypatch):
    taken = []

    def count(*arguments):
        taken.append(energy_score_and_curvature(*arguments))
        return taken[-1]

    def run():
        return smc.sample(model, (3,), [4.0, 2.0, 1.0, 0.5], particles=64, populations=3, seed=1)

    monkeypatch.setattr(evaluation, "energy_score_and_curvature", count)
    ours = run()
    assert taken
    assert None not in taken
    monkeypatch.setattr(evaluation, "energy_score_and_curvature", lambda *_: None)
    plain = run()
    torch.testing.assert_close(ours.log_z, plain.log_z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.x, plain.x, rtol=1e-2, atol=1e-2)
