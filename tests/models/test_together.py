"""Perceptron energies are evaluated by one operator, several of them together, with unchanged results."""

from __future__ import annotations

import copy

import pytest
import torch

from edmfast.models import EnergyModel, ResidualMLP, together
from edmfast.ops.mlp_potential.operator import mlp_potentials
from edmfast.targets import Conditioned, Guided, Product, Tempered


def model(dim=8, seed=0, **options):
    torch.manual_seed(seed)
    network = EnergyModel(ResidualMLP(dim, width=16, depth=2, num_classes=3), **options)
    torch.nn.init.normal_(network.backbone.output.weight, std=0.3)
    return network


@pytest.fixture
def calls(monkeypatch):
    calls_made = []

    def record(*arguments):
        calls_made.append(arguments)
        return mlp_potentials(*arguments)

    monkeypatch.setattr(together, "mlp_potentials", record)
    return calls_made


@pytest.fixture
def by_formulas(monkeypatch):
    """Call a function while no operator evaluates a network as a whole."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr(ResidualMLP, "perceptron", lambda self, x: None)
            return function()

    return call


@pytest.mark.parametrize("shape", [(8,), (2,), (13, 3), (3,)])
@pytest.mark.parametrize("sigma", [0.5, torch.rand(40, generator=torch.Generator()) + 0.1])
def test_a_model_uses_it_with_a_graph_and_without(calls, by_formulas, shape, sigma):
    energy = model(torch.Size(shape).numel())
    label = torch.arange(40) % 4
    for recorded in (False, True):
        x = torch.randn(40, *shape, generator=torch.Generator().manual_seed(1))
        x.requires_grad_(recorded)
        for condition in ({}, {"class_label": label}):

            def run(condition=condition, x=x):
                return [
                    *energy.energy_and_score(x, sigma, **condition),
                    energy(x, sigma, **condition),
                ]

            result, before = run(), len(calls)
            wanted = by_formulas(run)
            assert len(calls) == before
            for a, b in zip(result, wanted, strict=True):
                assert a.requires_grad == b.requires_grad == recorded
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            if recorded:
                wrt = [x, *(p for p in energy.parameters())]
                options = {"materialize_grads": True}
                slopes = [
                    torch.autograd.grad(e.sum() + s.square().sum() + d.sum(), wrt, **options)
                    for e, s, d in (result, wanted)
                ]
                for a, b in zip(*slopes, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert len(calls) == 8


def test_transforms_of_torch_func_use_the_formulas(calls):
    energy, x = model(), torch.randn(40, 8)
    assert torch.func.vmap(lambda row: energy.energy(row[None], 0.5)[0])(x).shape == (40,)
    slope = torch.func.grad(lambda x: energy.energy_and_score(x, 0.5)[0].sum())(x)
    assert not calls
    torch.testing.assert_close(slope, -energy.energy_and_score(x, 0.5)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change", ["hook", "patch", "derived", "dtype", "width", "bias", "autocast", "potential"]
)
def test_a_model_that_the_operator_cannot_take_is_evaluated_by_its_layers(calls, change):
    energy, x = model(), torch.randn(40, 8)
    if change == "hook":
        energy.backbone.layers[0].register_forward_hook(lambda module, args, out: 2 * out)
    if change == "patch":
        energy.backbone.forward = lambda y, c_noise: 0 * y
    if change == "derived":
        energy.backbone.__class__ = type("Derived", (ResidualMLP,), {})
    if change == "dtype":
        energy, x = energy.bfloat16(), x.bfloat16()
    if change == "width":
        energy = EnergyModel(ResidualMLP(8, width=17))
    if change == "bias":
        energy.backbone.output.bias = None
    if change == "potential":
        energy = model(potential="norm")
    with torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast"):
        energy.energy_and_score(x, 0.5)
        Product([energy, copy.deepcopy(energy)]).energy_and_score(x, 0.5)
    assert not calls


def targets():
    first, second = model(seed=1), model(seed=2, sigma_data=0.8)
    second.scale.values.mul_(0.9)
    yield "product", Product([first, second, model(seed=3)], [1.0, -0.5, 2.0]), 3
    yield "guided", Guided(first, second, 1.5), 2
    yield "inside", Tempered(Product([first, second]), 2.0), 2
    yield "none of exponent 0", Product([first, second, first], [1.0, 0.0, 1.0]), 2
    classes = [Conditioned(first, class_label=k) for k in (0, 2)]
    yield "classes of one", Product([*classes, first]), 3


@pytest.mark.parametrize("name", [name for name, *_ in targets()])
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("rows", [1, 40])
def test_several_in_one(calls, by_formulas, name, recorded, rows):
    target, models = next(rest for label, *rest in targets() if label == name)
    x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(recorded)
    for sigma in (0.3, torch.rand(rows, generator=torch.Generator().manual_seed(1)) + 0.1):
        calls.clear()
        result = target.energy_and_score(x, sigma)
        assert [len(arguments[3]) for arguments in calls] == [models]
        wanted = by_formulas(lambda sigma=sigma: target.energy_and_score(x, sigma))
        for a, b in zip(result, wanted, strict=True):
            assert a.shape == b.shape
            assert a.requires_grad == b.requires_grad == recorded
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    if recorded:
        for a, b in zip(
            *(torch.autograd.grad(s.sum(), x) for _, s in (result, wanted)), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_networks_of_other_shapes_are_evaluated_separately(calls):
    other = EnergyModel(ResidualMLP(8, width=32, depth=2))
    Product([model(), other]).energy_and_score(torch.randn(32, 8), 0.5)
    assert [len(arguments[3]) for arguments in calls] == [1, 1]


def test_bits_of_a_sample_do_not_depend_on_other_samples(calls):
    target = Product([model(seed=1), model(seed=2)])
    x = torch.randn(100, 8)
    whole = target.energy_and_score(x, 0.5)
    for start, rows in ((0, 1), (3, 40), (50, 17)):
        part = target.energy_and_score(x[start : start + rows], 0.5)
        for a, b in zip(part, whole, strict=True):
            assert torch.equal(a, b[start : start + rows])


def test_a_score_under_inference_mode_raises_as_that_of_one_model():
    target = Product([model(seed=1), model(seed=2)])
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        target.energy_and_score(torch.randn(4, 8), 0.5)


def _raised(energy_and_score):
    def changed(*arguments, **condition):
        energy, score = energy_and_score(*arguments, **condition)
        return energy + 100, 2 * score

    return changed


class _Derived(EnergyModel):
    def energy_and_score(self, x, sigma, **condition):
        return _raised(super().energy_and_score)(x, sigma, **condition)


class _Wrapper:
    """A wrapper that passes everything on to a model except its score."""

    def __init__(self, inner):
        self.inner = inner
        self.energy_and_score = _raised(inner.energy_and_score)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def _changed(how):
    energy = model()
    if how == "patched":
        energy.energy_and_score = _raised(energy.energy_and_score)
        return energy
    return _Derived(energy.backbone) if how == "derived" else _Wrapper(energy)


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("how", ["derived", "patched", "wrapper"])
def test_a_changed_score_is_used(how, conditioned):
    first, other, x = _changed(how), model(seed=1), torch.randn(5, 8)
    if conditioned:
        first = Conditioned(first, class_label=1)
    energy, score = Product([first, other]).energy_and_score(x, 0.7)
    (first_energy, first_score), (other_energy, other_score) = (
        m.energy_and_score(x, 0.7) for m in (first, other)
    )
    torch.testing.assert_close(energy, first_energy + other_energy)
    torch.testing.assert_close(score, first_score + other_score)


def test_hooks_of_all_modules_are_called(calls):
    energy, x, seen = model(), torch.randn(40, 8), []
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda *arguments: seen.append(arguments)
    )
    try:
        energy.energy_and_score(x, 0.5)
    finally:
        handle.remove()
    assert not calls
    assert {arguments[0] for arguments in seen} >= {*energy.backbone.layers, energy.backbone}
    energy.energy_and_score(x, 0.5)
    assert len(calls) == 1


def test_backward_hooks_are_called_while_a_score_is_differentiated():
    energy, seen = model(), []
    energy.backbone.layers[0].register_full_backward_hook(lambda *arguments: seen.append(arguments))
    _, score = energy.energy_and_score(torch.randn(4, 8, requires_grad=True), 0.7)
    seen.clear()
    score.square().sum().backward()
    assert seen


def test_a_weight_that_is_no_parameter_is_used():
    energy, x = model(), torch.randn(4, 8)
    wanted = energy.energy_and_score(x, 0.7)
    layer = energy.backbone.layers[0]
    weight = layer.weight.detach()
    del layer.weight
    layer.weight = weight
    torch.testing.assert_close(energy.energy_and_score(x, 0.7), wanted)


def test_a_target_may_have_attributes_of_any_name():
    class Target:
        exponent, member = 1.0, 3

        def energy_and_score(self, x, sigma):
            return x.sum(1), x

    assert Product([Target(), model()]).energy_and_score(torch.randn(5, 8), 0.7)[0].shape == (5,)
