"""`flat_compile` gives the losses and gradients of an eager step, for losses with derivatives inside."""

import copy
import shutil
import warnings

import pytest
import torch
from torch import nn

import edmfast
from edmfast.models.compiling import flat_graph

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler"
)


class ForceField(nn.Module):
    """An energy of the distances between atoms, [B, N, 3] -> [B]."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 1))
        self.register_buffer("centres", torch.linspace(0.5, 4, 8))
        self.scale = 1.0

    def forward(self, positions):
        apart = positions[:, :, None] - positions[:, None]
        count = positions.shape[1]
        away = 1 - torch.eye(count, dtype=positions.dtype, device=positions.device)
        distance = (apart.square().sum(-1) + 1e-6).sqrt()
        features = torch.exp(-(distance[..., None] - self.centres).square())
        return self.scale * (self.layers(features).squeeze(-1) * away).sum((1, 2))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ForceField()


@pytest.fixture(autouse=True)
def no_fallback():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*eagerly")
        yield


@pytest.fixture
def graphs(monkeypatch):
    """Return the list of traced graphs, which run without a compiler."""
    traced = []

    def record(graph, *_):
        traced.append(graph)
        return graph

    monkeypatch.setattr(flat_graph, "compile_graph", record)
    return traced


def batch_of(size=4, atoms=5, seed=0):
    draw = torch.Generator().manual_seed(seed)
    positions, forces = torch.randn(2, size, atoms, 3, generator=draw)
    return {"positions": positions, "energy": torch.randn(size, generator=draw), "forces": forces}


def loss_of(model):
    def loss_fn(batch, weight=2.0):
        positions = batch["positions"].requires_grad_()
        energy = model(positions)
        (slope,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        error = (energy - batch["energy"]).square().mean()
        return error + weight * (slope + batch["forces"]).square().mean()

    return loss_fn


def eager(model, loss_fn, *args):
    loss = loss_fn(*args)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return loss.detach(), dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


def test_a_force_field_trains_as_in_an_eager_loop(model):
    other = copy.deepcopy(model)
    step = edmfast.flat_compile(loss_of(model), model)
    optimisers = [torch.optim.SGD(m.parameters(), 1e-3, momentum=0.9) for m in (model, other)]
    for seed in range(3):
        batch = batch_of(seed=seed)
        expected = loss_of(other)(batch_of(seed=seed))
        expected.backward()
        close(step.backward(batch), expected.detach())
        assert not batch["positions"].requires_grad
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
    close(dict(model.named_parameters()), dict(other.named_parameters()))


def test_backward_adds_to_gradients(model, graphs):
    step, batch = edmfast.flat_compile(loss_of(model), model), batch_of()
    _, gradients = step(batch)
    assert all(parameter.grad is None for parameter in model.parameters())
    step.backward(batch)
    step.backward(batch)
    close(
        {n: p.grad for n, p in model.named_parameters()}, {n: 2 * g for n, g in gradients.items()}
    )


def test_sizes_plain_arguments_and_modes_have_graphs_of_their_own(model, graphs):
    step, loss_fn = edmfast.flat_compile(loss_of(model), model), loss_of(model)
    for args in ((batch_of(),), (batch_of(), 3.0), (batch_of(6),), (batch_of(7),), (batch_of(9),)):
        close(step(*args), eager(model, loss_fn, *args))
    # two for the values of the weight, and one for the batches of other sizes
    assert len(graphs) == 3
    model.eval()
    close(step(batch_of()), eager(model, loss_fn, batch_of()))
    assert len(graphs) == 4


def test_a_changed_attribute_and_frozen_parameters_are_noticed(model, graphs):
    step, loss_fn = edmfast.flat_compile(loss_of(model), model), loss_of(model)
    close(step(batch_of()), eager(model, loss_fn, batch_of()))
    model.scale = 0.5
    close(step(batch_of()), eager(model, loss_fn, batch_of()))
    model.layers[0].requires_grad_(False)
    loss, gradients = step(batch_of())
    assert [*gradients] == ["layers.2.weight", "layers.2.bias"]
    close(loss, loss_fn(batch_of()).detach())
    # frozen weights and buffers are arguments of the graph
    with torch.no_grad():
        model.layers[0].weight.mul_(2)
        model.centres.add_(0.1)
    close(step(batch_of())[0], loss_fn(batch_of()).detach())
    assert len(graphs) == 3


@pytest.mark.parametrize("compiled", [False, True])
def test_tensors_from_elsewhere_are_read_at_every_call(model, compiled, request):
    if not compiled:
        request.getfixturevalue("graphs")
    teacher, shift = nn.Linear(3, 1), torch.zeros(())

    def loss_fn(x):
        return (model(x) - teacher(x).sum((1, 2)) - shift).square().mean()

    step, x = edmfast.flat_compile(loss_fn, model), batch_of()["positions"]
    for _ in range(2):
        close(step(x), eager(model, loss_fn, x))
        with torch.no_grad():
            shift.add_(1)
            teacher.weight.mul_(-2)
    # their storage may change too
    teacher.weight.data = torch.ones(1, 3)
    close(step(x), eager(model, loss_fn, x))


def test_a_mapping_of_tensors_with_aux(graphs):
    draw = torch.Generator().manual_seed(0)
    params = {"a": torch.randn(3, generator=draw), "unused": torch.zeros(2), "n": torch.tensor(3)}

    def loss_fn(params, x):
        y = x.requires_grad_()
        energy = torch.sin(y @ params["a"]).sum() * params["n"]
        (slope,) = torch.autograd.grad(energy, y, create_graph=True)
        return slope.square().sum(), {"slope": slope, "mean": [slope.mean()]}

    step, x = edmfast.flat_compile(loss_fn, params, has_aux=True), torch.randn(5, 3, generator=draw)
    loss, gradients, aux = step(x)
    a = params["a"].clone().requires_grad_()
    expected, parts = loss_fn({**params, "a": a}, x.clone())
    close(loss, expected.detach())
    close(aux, {"slope": parts["slope"].detach(), "mean": [parts["mean"][0].detach()]})
    close(gradients, {"a": torch.autograd.grad(expected, a)[0], "unused": torch.zeros(2)})
    step.backward(x)
    close(params["a"].grad, gradients["a"])


def test_a_gradient_penalty(graphs):
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss_fn(real, fake, mix):
        between = (mix * real + (1 - mix) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        return critic(fake).mean() - critic(real).mean() + 10 * penalty

    arguments = torch.randn(6, 4), torch.randn(6, 4), torch.rand(6, 1)
    step = edmfast.flat_compile(loss_fn, critic)
    close(step(*arguments), eager(critic, loss_fn, *arguments))


def test_a_loss_that_cannot_be_traced_runs_eagerly_after_one_warning(model, graphs):
    def loss_fn(batch):
        loss = loss_of(model)(batch)
        return loss if float(loss.detach()) > 0 else -loss

    step = edmfast.flat_compile(loss_fn, model)
    with pytest.warns(UserWarning, match="flat_compile failed, the step runs eagerly"):
        first = step(batch_of())
    close(first, eager(model, loss_fn, batch_of()))
    close(step(batch_of(7)), eager(model, loss_fn, batch_of(7)))


def test_what_a_step_does_not_take(model, graphs):
    with pytest.raises(TypeError, match="params must be a module or a mapping"):
        edmfast.flat_compile(loss_of(model), model.parameters())
    with pytest.raises(TypeError, match=r"tensors, plain values, and lists, .* given object"):
        edmfast.flat_compile(loss_of(model), model)(object())
    with pytest.raises(ValueError, match=r"must be one number, of shape \[\], and has \[4\]"):
        edmfast.flat_compile(model, model)(batch_of()["positions"])
    with pytest.raises(TypeError, match="returned float"):
        edmfast.flat_compile(lambda x: 1.0, model)(torch.ones(2))
    with pytest.raises(TypeError, match="has_aux=True"):
        edmfast.flat_compile(loss_of(model), model, has_aux=True)(batch_of())
    # a mistake of the caller is not a failed compilation
    step = edmfast.flat_compile(loss_of(model), model)
    with pytest.raises(KeyError, match="positions"):
        step({"x": torch.ones(1)})
    close(step(batch_of()), eager(model, loss_of(model), batch_of()))


def test_what_changes_in_place_is_refused(model, graphs):
    count = torch.zeros(())

    def loss_fn(batch):
        count.add_(1)
        return loss_of(model)(batch)

    with pytest.warns(UserWarning, match="a call of the loss changes the attribute .*count"):
        edmfast.flat_compile(loss_fn, model)(batch_of())
