"""Compiled models notice a change of any plain attribute that their graphs depend on."""

import copy
import warnings

import pytest
import torch
from torch import nn

from edmfast.models import EnergyModel, ResidualMLP, patch_attention
from edmfast.models.compiling import flat_graph
from edmfast.models.compiling.attributes import MOST_STATES, Attributes

GAIN = 1.0
AROUND = {"gain": 1.0}
AROUND_OF_A_HELPER = 1.0
X = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """Run graphs as they were traced, without a compiler, since the tests are about what a graph holds."""
    traced = []
    monkeypatch.setattr(
        flat_graph, "compile_graph", lambda graph, *_: traced.append(graph) or graph
    )
    return traced


def from_around(h):
    return h * AROUND["gain"] * AROUND_OF_A_HELPER


class Settings:
    def __init__(self):
        self.gain = 1.0


class Adapted(nn.Module):
    """A backbone whose forward reads plain attributes of every kind."""

    weight_of_class = 1.0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.base, self.a, self.b = (nn.Linear(2, 2) for _ in range(3))
        self.active, self.scaling, self.on = "a", 1.0, True
        self.sizes, self.table, self.settings = [1.0, 2.0], {"gain": 1.0}, Settings()
        self.activation, self.plain = torch.tanh, torch.ones(2)
        self.dropout = nn.Dropout(0.0)

    def forward(self, y, c_noise):
        h = self.base(y) + self.scaling * (self.a if self.active == "a" else self.b)(y)
        h = h * sum(self.sizes) * self.table["gain"] * self.settings.gain * GAIN
        h = from_around(h)
        h = h * self.weight_of_class * self.plain
        return self.activation(h) if self.on else self.dropout(h)


def negated(y, c_noise):
    return -y


def patched_forward(backbone, _):
    backbone.forward = negated


CHANGES = {
    "global of a helper": lambda _, patch: patch.setitem(globals(), "AROUND_OF_A_HELPER", 3.0),
    "entry of a global dictionary": lambda _, patch: patch.setitem(AROUND, "gain", 3.0),
    "number": lambda b, _: setattr(b, "scaling", 0.0),
    "string": lambda b, _: setattr(b, "active", "b"),
    "flag": lambda b, _: setattr(b, "on", False),
    "list in place": lambda b, _: b.sizes.append(3.0),
    "dictionary in place": lambda b, _: b.table.update(gain=2.0),
    "attribute of an object": lambda b, _: setattr(b.settings, "gain", 2.0),
    "object": lambda b, _: setattr(b, "settings", copy.copy(b.settings)),
    "function": lambda b, _: setattr(b, "activation", torch.sin),
    "tensor in place": lambda b, _: b.plain.mul_(2),
    "tensor": lambda b, _: setattr(b, "plain", torch.full((2,), 3.0)),
    "forward": patched_forward,
    "patched attention": lambda b, _: patch_attention(b),
    "dropout": lambda b, _: (setattr(b, "on", False), setattr(b.dropout, "p", 0.0)),
    "class": lambda b, monkeypatch: monkeypatch.setattr(Adapted, "weight_of_class", 2.0),
    "global": lambda b, monkeypatch: monkeypatch.setitem(globals(), "GAIN", 2.0),
    "method of the class": lambda b, monkeypatch: monkeypatch.setattr(
        Adapted, "forward", lambda self, y, c_noise: self.base(y)
    ),
    "hook": lambda b, _: b.base.register_forward_hook(lambda module, inputs, out: 2 * out),
    "weights by data": lambda b, _: setattr(b.base.weight, "data", torch.eye(2)),
    "assigned weights": lambda b, _: b.load_state_dict(
        {k: 2 * v for k, v in b.state_dict().items()}, assign=True
    ),
    "parametrisation": lambda b, _: nn.utils.parametrize.register_parametrization(
        b.base, "weight", nn.Tanh()
    ),
    "tied": lambda b, _: setattr(b.b, "weight", b.a.weight),
    "double": lambda b, _: None,
}


def same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize("name", CHANGES)
def test_a_compiled_model_is_the_eager_one_after_any_change(name, monkeypatch):
    model = EnergyModel(Adapted())
    model.compile()
    x = X
    model.energy_and_score(x, 0.7)
    CHANGES[name](model.backbone, monkeypatch)
    if name == "double":
        model.double()
        x = x.double()
    eager = copy.deepcopy(model)
    if name == "patched attention":
        eager = EnergyModel(copy.deepcopy(model.backbone))
    eager._compiled = None
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        same(model.energy_and_score(x, 0.7), eager.energy_and_score(x, 0.7))


def test_attributes_of_the_model_itself():
    model = EnergyModel(Adapted())
    model.compile()
    model.energy_and_score(X, 0.7)
    model.sigma_data = 0.9
    eager = EnergyModel(copy.deepcopy(model.backbone), sigma_data=0.9)
    same(model.energy_and_score(X, 0.7), eager.energy_and_score(X, 0.7))
    same([model(X, 0.7)], [eager(X, 0.7)])


def test_values_that_come_back_compile_nothing_and_too_many_are_called_eagerly(graphs):
    model = EnergyModel(Adapted())
    eager = EnergyModel(model.backbone)
    model.compile()

    def check(scaling):
        model.backbone.scaling = scaling
        same(model.energy_and_score(X, 0.7), eager.energy_and_score(X, 0.7))

    for scaling in (0.0, 1.0, 0.0, 1.0, 0.0):
        check(scaling)
    assert len(graphs) == 2
    for scaling in range(2, MOST_STATES):
        check(float(scaling))
    with pytest.warns(UserWarning, match=r"Adapted\.scaling took more than 4 values"):
        check(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check(0.6)
        check(0.0)
    assert len(graphs) == MOST_STATES
    model.compile()
    check(0.0)
    assert len(graphs) == MOST_STATES + 1


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(2, 2), 0

    def forward(self, y, c_noise):
        self.calls += 1
        return self.layer(y) * self.calls


def test_a_model_that_counts_its_calls_stays_eager_after_one_warning():
    model, eager = EnergyModel(Counter()), EnergyModel(Counter())
    eager.load_state_dict(model.state_dict())
    model.compile()
    with pytest.warns(
        UserWarning, match=r"called eagerly: .* changes the attribute Counter\.calls"
    ):
        first = model.energy_and_score(X, 0.7)
    same(first, eager.energy_and_score(X, 0.7))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        same(model.energy_and_score(X, 0.7), eager.energy_and_score(X, 0.7))
    assert model.backbone.calls == eager.backbone.calls == 2


def test_equal_values_are_no_change_and_the_warning_names_the_attribute():
    backbone = Adapted()
    watched = Attributes(backbone.modules())
    assert watched.change() is None
    backbone.scaling, backbone.active = float("1.0"), "".join(["a"])
    backbone.sizes = [1.0, 2.0]
    assert watched.change() is None
    backbone.scaling = 1  # an integer promotes dtypes differently
    assert watched.change() == "Adapted.scaling"
    backbone.scaling = 1.0
    backbone.table["gain"] = float("nan")
    assert watched.change() == "Adapted.table"
    again = Attributes(backbone.modules())
    assert again.change() is None
    backbone.extra = 3
    assert "added or removed" in again.change()


def test_our_own_perceptrons_have_no_changing_attributes():
    model = EnergyModel(ResidualMLP(2, width=8, depth=1))
    watched = Attributes(model.modules())
    model.energy_and_score(X, 0.7)
    model(X.requires_grad_(), 0.7).sum().backward()
    assert watched.change() is None
