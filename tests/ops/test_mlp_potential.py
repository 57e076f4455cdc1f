"""Energy and score of a perceptron by hand: against autograd in float64, any place in a batch, bad input."""

from __future__ import annotations

import pytest
import torch

from edmfast.models import EnergyModel, ResidualMLP
from edmfast.ops.mlp_potential import Perceptron, mlp_potential

DOUBLE = torch.float64
SHAPES = [
    (0, 3, 8, 1),
    (1, 1, 1, 1),
    (31, 2, 16, 2),
    (40, 3, 37, 3),
    (1000, 64, 32, 0),
    (1100, 5, 128, 8),
]


def draw(batch, elements, width, depth, dtype=DOUBLE, shared=False):
    generator = torch.Generator().manual_seed(batch + width)

    def normal(*shape, scale=1.0):
        return (scale * torch.randn(shape, generator=generator, dtype=DOUBLE)).to(dtype)

    y, weight, pairs = normal(batch, elements), normal(batch), normal(batch, 2)
    shifts = normal(1 if shared else batch, depth * width)
    network = Perceptron(
        normal(width, elements),
        normal(width),
        [normal(width, width, scale=width**-0.5) for _ in range(depth)],
        normal(elements, width, scale=width**-0.5),
        normal(elements),
    )
    return y, weight, shifts, pairs, network


def by_autograd(y, weight, shifts, pairs, network):
    """The definition in float64."""
    y, weight, shifts, pairs = (t.double() for t in (y, weight, shifts, pairs))
    entry, entry_bias, layers, exit, exit_bias = network
    leaf = y.clone().requires_grad_()
    hidden = leaf @ entry.double().T + entry_bias.double()
    for layer, shift in zip(layers, shifts.chunk(max(1, len(layers)), 1), strict=False):
        hidden = hidden + torch.nn.functional.silu(hidden @ layer.double().T + shift)
    h = hidden @ exit.double().T + exit_bias.double()
    f = weight * (h * leaf).sum(1)
    (slope,) = torch.autograd.grad(f.sum(), leaf)
    return 0.5 * y.square().sum(1) - f.detach(), pairs[:, :1] * slope + pairs[:, 1:] * y


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_equals_autograd(shape, dtype, shared):
    given = draw(*shape, dtype=dtype, shared=shared)
    for ours, wanted in zip(mlp_potential(*given), by_autograd(*given), strict=True):
        assert ours.dtype == dtype
        size = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
        atol = 200 * torch.finfo(dtype).eps * size
        torch.testing.assert_close(ours.double(), wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_activation_everywhere(dtype):
    """One hidden number through one layer: silu and its slope from -1000 to 1000, and at infinity."""
    z = torch.cat([torch.linspace(-100, 100, 4001), torch.tensor([-1e3, 1e3])]).to(dtype)[:, None]
    one = torch.ones(1, 1, dtype=dtype)
    network = Perceptron(0 * one, one[0] * 0, [0 * one], one, 0 * one[0])
    # hidden 0, then silu(z): energy y²/2 - y silu(z) for y = 1
    ones = torch.ones(len(z), dtype=dtype)
    energy, _ = mlp_potential(ones[:, None], ones, z, torch.zeros(len(z), 2, dtype=dtype), network)
    wanted = 0.5 - torch.nn.functional.silu(z[:, 0].double())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(energy.double(), wanted, rtol=4 * eps, atol=4 * eps)


def test_bits_depend_neither_on_the_batch_nor_on_the_threads(with_threads):
    """Of batches a model pads: 32, 48, 64, … rows."""
    y, weight, shifts, pairs, network = draw(2000, 64, 32, 3, torch.float32)
    with with_threads(1):
        whole = mlp_potential(y, weight, shifts, pairs, network)
    for threads in (1, 2):
        with with_threads(threads):
            for start, rows in ((0, 32), (7, 48), (100, 1120), (16, 1984)):
                part = slice(start, start + rows)
                found = mlp_potential(y[part], weight[part], shifts[part], pairs[part], network)
                for ours, wanted in zip(found, whole, strict=True):
                    assert torch.equal(ours, wanted[part])


def test_strides_and_shapes():
    y, weight, shifts, pairs, network = draw(40, 6, 8, 2)
    wanted = mlp_potential(y, weight, shifts, pairs, network)
    layers = [layer.T.contiguous().T for layer in network.layers]
    turned = network._replace(entry=network.entry.T.contiguous().T, layers=layers)
    pair = pairs.T.contiguous().T
    energy, field = mlp_potential(y.reshape(40, 2, 3), weight, shifts, pair, turned)
    assert field.shape == (40, 2, 3)
    torch.testing.assert_close(energy, wanted[0], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(field.reshape(40, 6), wanted[1], rtol=1e-13, atol=1e-13)


def test_weights_that_require_grad_on_two_threads(with_threads):
    given = draw(1100, 4, 8, 2, torch.float32)
    network = Perceptron(*(t if isinstance(t, list) else t.requires_grad_() for t in given[4]))
    with with_threads(2), torch.no_grad():
        energy, _ = mlp_potential(*given[:4], network)
    assert not energy.requires_grad
    with pytest.raises(RuntimeError, match="no derivative"):
        mlp_potential(*given[:4], network)


def test_opcheck():
    y, weight, shifts, pairs, network = draw(33, 4, 8, 2, torch.float32)
    given = (y, weight, shifts, pairs, *network)
    torch.library.opcheck(torch.ops.edmfast.mlp_potential.default, given)


@pytest.mark.parametrize(
    ("place", "value", "error", "message"),
    [
        (1, torch.zeros(3), ValueError, r"weight must be \[4\], got \[3\]"),
        (2, torch.zeros(2, 16), ValueError, r"shifts must be \[4, 16\]"),
        (3, torch.zeros(4, 3), ValueError, r"coefficients must be \[4, 2\]"),
        (1, torch.zeros(4).double(), TypeError, "float64"),
    ],
)
def test_errors(place, value, error, message):
    given = list(draw(4, 3, 8, 2, torch.float32))
    given[place] = value
    with pytest.raises(error, match=message):
        mlp_potential(*given)


def model(dim=8):
    torch.manual_seed(0)
    network = EnergyModel(ResidualMLP(dim, width=16, depth=2, num_classes=3))
    torch.nn.init.normal_(network.backbone.output.weight, std=0.3)
    return network


@pytest.fixture
def calls(monkeypatch):
    from edmfast.models import energy

    found = []

    def record(*given):
        found.append(given)
        return mlp_potential(*given)

    monkeypatch.setattr(energy, "mlp_potential", record)
    return found


@pytest.mark.parametrize("shape", [(8,), (2,), (13, 3), (3,)])
def test_a_model_uses_it_where_no_graph_is_recorded(calls, shape):
    one = model(torch.Size(shape).numel())
    x, sigma = torch.randn(40, *shape), torch.rand(40) + 0.1
    label = torch.arange(40) % 4
    for given in ({}, {"class_label": label}):
        leaf = x.clone().requires_grad_()
        wanted = [*one.energy_and_score(leaf, sigma, **given), one(leaf, sigma, **given)]
        found = [*one.energy_and_score(x, sigma, **given), one(x, sigma, **given)]
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b.detach(), rtol=1e-4, atol=1e-5)
    assert len(calls) == 4
    # the score inside a gradient of somebody else's
    assert torch.func.vmap(lambda row: one.energy(row[None], 0.5)[0])(x).shape == (40,)
    assert len(calls) == 4


@pytest.mark.parametrize(
    "change", ["hook", "patch", "derived", "dtype", "width", "bias", "autocast", "potential"]
)
def test_a_model_that_it_does_not_fit_is_evaluated_as_before(calls, change):
    one, x = model(), torch.randn(40, 8)
    if change == "hook":
        one.backbone.layers[0].register_forward_hook(lambda module, args, out: 2 * out)
    if change == "patch":
        one.backbone.forward = lambda y, c_noise: 0 * y
    if change == "derived":
        one.backbone.__class__ = type("Derived", (ResidualMLP,), {})
    if change == "dtype":
        one, x = one.bfloat16(), x.bfloat16()
    if change == "width":
        one = EnergyModel(ResidualMLP(8, width=17))
    if change == "bias":
        one.backbone.output.bias = None
    if change == "potential":
        one = EnergyModel(ResidualMLP(8, width=16), potential="norm")
    with torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast"):
        one.energy_and_score(x, 0.5)
    assert not calls
