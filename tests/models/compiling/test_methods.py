"""EnergyModel.compile() gives the numbers of the eager model with few compilations, and leaves graphs to it."""

import copy
import pickle
import shutil
import threading
import warnings

import pytest
import torch

from edmfast.models import DiT, EnergyModel, ResidualMLP, UNet
from edmfast.models.compiling import flat_graph
from edmfast.targets import Conditioned, Tempered

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler"
)
BACKBONES = {
    "mlp": (lambda: ResidualMLP(3, width=16, depth=2, num_classes=3), (3,)),
    "dit": (lambda: DiT(1, 4, width=8, depth=1, heads=2, num_classes=3), (1, 4, 4)),
    "unet": (lambda: UNet(1, (8,), groups=4, num_classes=3), (1, 4, 4)),
}


def model_of(name, **options):
    torch.manual_seed(0)
    build, shape = BACKBONES[name]
    model = EnergyModel(build(), **options)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval(), shape


@pytest.fixture
def graphs(monkeypatch):
    traced = []
    compile_ = flat_graph.compile_graph

    def record(graph, *arguments):
        traced.append(graph)
        return compile_(graph, *arguments)

    monkeypatch.setattr(flat_graph, "compile_graph", record)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True failed")
        yield traced


def same(actual, expected):
    """Assert that tensors are equal up to the order of rounding, in units of the largest element."""
    for a, b in zip(actual, expected, strict=True):
        size = max(1.0, b.abs().max().item())
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("name", BACKBONES)
def test_energy_and_score(graphs, name):
    eager, shape = model_of(name)
    model, _ = model_of(name)
    assert model.compile() is None
    x = torch.randn(40, *shape)
    for sigma in (0.5, torch.tensor(3.0)):
        same(model.energy_and_score(x, sigma), eager.energy_and_score(x, sigma))
    assert len(graphs) == 1
    names = [str(node.target) for node in graphs[0].graph.nodes]
    operator = "mlp_potential" if name == "mlp" else "potential_field"
    assert names.count(f"edmfast.{operator}.default") == 1


@pytest.mark.parametrize(
    ("batches", "sizes"),
    # these batches are padded to 32, and then to 32, 32, 80, 32 and 80 rows
    [((5, 1, 32), 1), pytest.param((1, 32, 70, 5, 70), 2, marks=pytest.mark.slow)],
)
def test_every_method_and_any_batch(graphs, batches, sizes):
    eager, shape = model_of("mlp")
    model, _ = model_of("mlp")
    model.compile()
    label = torch.arange(70) % 4
    with torch.no_grad():
        for batch in batches:
            x, sigma = torch.randn(batch, *shape), torch.rand(batch) + 0.1
            condition = {"class_label": label[:batch]}
            same(
                model.energy_and_score(x, sigma, **condition),
                eager.energy_and_score(x, sigma, **condition),
            )
            same([model(x, sigma, **condition)], [eager(x, sigma, **condition)])
            same([model.energy(x, sigma, **condition)], [eager.energy(x, sigma, **condition)])
    assert len(graphs) == 3 * sizes


def test_recorded_calls_are_eager(graphs):
    eager, shape = model_of("mlp")
    model, _ = model_of("mlp")
    model.compile()
    x = torch.randn(4, *shape, requires_grad=True)
    same(
        torch.autograd.grad(
            model(x, 0.5).square().sum(), [x, *model.parameters()], allow_unused=True
        )[:1],
        torch.autograd.grad(
            eager(x, 0.5).square().sum(), [x, *eager.parameters()], allow_unused=True
        )[:1],
    )
    assert model.energy(x.detach(), 0.5).requires_grad
    assert not graphs


def test_new_weights_and_targets_made_of_the_model(graphs):
    eager, shape = model_of("mlp")
    model, _ = model_of("mlp")
    model.compile()
    x = torch.randn(32, *shape)
    model.energy_and_score(x, 0.5, class_label=torch.ones(32, dtype=torch.int64))
    for each in (model, eager):
        each.load_state_dict({k: 1.5 * v for k, v in model_of("mlp")[0].state_dict().items()})
    pair = [Tempered(Conditioned(each, class_label=1), 2.0) for each in (model, eager)]
    same(pair[0].energy_and_score(x, 0.5), pair[1].energy_and_score(x, 0.5))
    assert len(graphs) == 1


@pytest.mark.parametrize("potential", ["norm", "residual"])
def test_other_potentials(graphs, potential):
    eager, shape = model_of("mlp", potential=potential)
    model, _ = model_of("mlp", potential=potential)
    model.compile()
    x = torch.randn(32, *shape)
    same(model.energy_and_score(x, 0.5), eager.energy_and_score(x, 0.5))
    assert len(graphs) == 1


def test_what_cannot_be_traced_is_called_eagerly():
    class Unfit(ResidualMLP):
        def forward(self, y, c_noise, class_label=None):
            return super().forward(y, c_noise, class_label) * float(y.detach().sum() < 1e9)

    model = EnergyModel(Unfit(3, width=8, depth=1))
    x = torch.randn(32, 3)
    wanted = model.energy_and_score(x, 0.5)
    model.compile()
    with pytest.warns(UserWarning, match="the model is called eagerly: RuntimeError"):
        same(model.energy_and_score(x, 0.5), wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(model.energy_and_score(x, 0.5), wanted)


class Counting(torch.nn.Module):
    """A backbone that changes a buffer in place."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
        self.register_buffer("n", torch.zeros(()))

    def forward(self, y, c_noise):
        self.n += 1
        return self.layer(y) * self.n


def test_changed_structure_is_noticed(graphs):
    model, shape = model_of("mlp")
    model.compile()
    x = torch.randn(32, *shape)
    model.energy_and_score(x, 0.5)

    def check():
        eager = copy.deepcopy(model)
        eager._compiled = None
        same(model.energy_and_score(x, 0.5), eager.energy_and_score(x, 0.5))

    model.backbone.layers[0] = model_of("mlp")[0].backbone.layers[1]
    check()
    model.backbone.layers[1].weight = model.backbone.layers[0].weight  # two names share one weight
    check()
    model.backbone.layers[1].weight = torch.nn.Parameter(torch.randn(16, 16))
    check()
    with torch.no_grad():
        model.backbone.layers[1].weight.mul_(2)
    check()
    model.backbone.input.bias = None
    check()
    model.backbone.layers[0].register_forward_hook(lambda module, inputs, out: 2 * out)
    check()


def test_copies_and_pickles_are_independent_models(graphs):
    torch.manual_seed(0)
    model = EnergyModel(DiT(1, 4, width=8, depth=1, heads=2, dropout=0.5)).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    model.compile()
    x = torch.randn(32, 1, 4, 4)
    before = model.energy_and_score(x, 0.5)
    twin = copy.deepcopy(model)
    same(twin.energy_and_score(x, 0.5), before)
    twin.train()
    assert not torch.equal(twin.energy_and_score(x, 0.5)[0], twin.energy_and_score(x, 0.5)[0])
    same(model.energy_and_score(x, 0.5), before)
    again = pickle.loads(pickle.dumps(model))
    for parameter in again.parameters():
        torch.nn.init.zeros_(parameter)
    assert not torch.equal(again.energy_and_score(x, 0.5)[0], before[0])
    same(model.energy_and_score(x, 0.5), before)


def test_a_callers_mistake_costs_no_compilation(graphs):
    model, shape = model_of("mlp")
    model.compile()
    with pytest.raises(ValueError, match="of 3 numbers"):
        model.energy_and_score(torch.randn(32, 5), 0.5)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="no_grad"):
        model.energy_and_score(torch.randn(32, 3), 0.5)
    model.energy_and_score(torch.randn(32, *shape), 0.5)
    assert len(graphs) == 1


def test_conditions_are_distinguished_by_type(graphs):
    class Chosen(ResidualMLP):
        def forward(self, y, c_noise, how=None):
            return super().forward(y, c_noise) * (3 if how is True else 1)

    model = EnergyModel(Chosen(3, width=16, depth=1))
    torch.nn.init.normal_(model.backbone.output.weight)
    eager = copy.deepcopy(model)
    model.compile()
    x = torch.randn(32, 3)
    for how in (1, True, [True]):  # a list cannot be part of a key, so this call is eager
        same(model.energy_and_score(x, 0.5, how=how), eager.energy_and_score(x, 0.5, how=how))
    assert len(graphs) == 2


def test_a_buffer_that_changes_is_left_to_the_eager_model():
    model, eager = EnergyModel(Counting()), EnergyModel(Counting())
    eager.load_state_dict(model.state_dict())
    model.compile()
    x = torch.randn(32, 3)
    with pytest.warns(UserWarning, match="changes its parameters or buffers"):
        first = model.energy_and_score(x, 0.5)
    same(first, eager.energy_and_score(x, 0.5))
    same(model.energy_and_score(x, 0.5), eager.energy_and_score(x, 0.5))
    assert model.backbone.n == 2


def test_threads(graphs):
    """First calls in several threads, with training beside them, leave the weights of the model in place."""
    model, shape = model_of("mlp")
    eager, _ = model_of("mlp")
    model.compile()
    x = torch.randn(32, *shape)
    results, parameters = {}, dict(model.named_parameters())

    def call(name):
        with torch.no_grad():
            results[name] = getattr(model, name)(x, 0.5)

    def train():
        for _ in range(20):
            leaf = x.clone().requires_grad_()
            model(leaf, 0.5).square().sum().backward()

    names = ("energy", "energy_and_score", "forward")
    threads = [threading.Thread(target=call, args=(name,)) for name in names]
    threads.append(threading.Thread(target=train))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dict(model.named_parameters()) == parameters
    same(results["energy_and_score"], eager.energy_and_score(x, 0.5))
    same([results["forward"], results["energy"]], [eager(x, 0.5), eager.energy(x, 0.5).detach()])
    assert all(parameter.grad is not None for parameter in model.backbone.layers.parameters())
