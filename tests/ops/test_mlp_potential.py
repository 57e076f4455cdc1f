"""Energies and scores of perceptrons equal autograd in float64, at any place in a batch, for K models."""

from __future__ import annotations

import pytest
import torch
import torch.utils.checkpoint

from edmfast.ops.mlp_potential.operator import Perceptron, mlp_potential, mlp_potentials

DOUBLE = torch.float64
# each row is: models, rows, numbers of a state, width, layers
SIZES = [
    (1, 0, 3, 8, 1),
    (2, 1, 1, 1, 1),
    (1, 31, 2, 16, 2),
    (3, 40, 3, 37, 3),
    (1, 1000, 64, 32, 0),
    (1, 1100, 5, 64, 8),
]


def draw(size, dtype=DOUBLE, shared=False):
    """Return x, coefficients [K, B or 1, 4], shifts and networks of K models."""
    models, batch, elements, width, depth = size
    generator = torch.Generator().manual_seed(batch + width)
    rows = 1 if shared else batch

    def normal(*shape, scale=1.0):
        return (scale * torch.randn(shape, generator=generator, dtype=DOUBLE)).to(dtype)

    def network():
        return Perceptron(
            normal(width, elements),
            normal(width),
            [normal(width, width, scale=width**-0.5) for _ in range(depth)],
            normal(elements, width, scale=width**-0.5),
            normal(elements),
        )

    x, numbers = normal(batch, elements), normal(models, rows, 4)
    shifts = [normal(rows, depth * width) for _ in range(models)]
    return x, numbers, shifts, [network() for _ in range(models)]


def leaves(x, numbers, shifts, networks):
    """Return every tensor once, as a leaf."""
    results = {id(t): t for t in (x, numbers, *shifts)}
    for network in networks:
        results |= {id(t): t for t in (*network[:2], *network.layers, *network[3:])}
    return [tensor.requires_grad_() for tensor in results.values()]


def by_autograd(x, numbers, shifts, networks):
    """Compute energies and fields by their definition in float64."""
    energies, fields = [], []
    for k, (entry, entry_bias, layers, exit, exit_bias) in enumerate(networks):
        c, w, a, b = numbers[k].double().unsqueeze(2).unbind(1)
        with torch.enable_grad():
            y = c * x.double()
            y = y if y.requires_grad else y.requires_grad_()
            hidden = y @ entry.double().T + entry_bias.double()
            chunks = shifts[k].double().chunk(max(1, len(layers)), 1)
            for layer, shift in zip(layers, chunks, strict=False):
                hidden = hidden + torch.nn.functional.silu(hidden @ layer.double().T + shift)
            f = w[:, 0] * ((hidden @ exit.double().T + exit_bias.double()) * y).sum(1)
            (slope,) = torch.autograd.grad(f.sum(), y, create_graph=True)
        energies.append(0.5 * y.square().sum(1) - f)
        fields.append(a * slope + b * y)
    return torch.stack(energies), torch.stack(fields)


def close(ours, wanted, dtype, units=200):
    size = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
    atol = units * torch.finfo(dtype).eps * size
    torch.testing.assert_close(ours.double(), wanted.double(), rtol=0, atol=atol)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_two_orders_equal_autograd(size, dtype, shared):
    """Values, gradients with respect to all inputs, and gradients of these agree."""
    operands = draw(size, dtype, shared)
    inputs = leaves(*operands)
    results, wanted = mlp_potentials(*operands), by_autograd(*operands)
    for ours, truth in zip(results, wanted, strict=True):
        assert ours.dtype == dtype
        close(ours, truth.detach(), dtype)
    generator = torch.Generator().manual_seed(0)
    e, v = (torch.randn(t.shape, generator=generator, dtype=DOUBLE) for t in wanted)
    options = {"create_graph": True, "materialize_grads": True}
    slopes = torch.autograd.grad(results, inputs, (e.to(dtype), v.to(dtype)), **options)
    truths = torch.autograd.grad(wanted, inputs, (e, v), **options)
    for ours, truth in zip(slopes, truths, strict=True):
        assert ours.requires_grad
        close(ours, truth, dtype, 2000)
    again = [torch.randn(t.shape, generator=generator, dtype=DOUBLE).to(dtype) for t in truths]
    options = {"materialize_grads": True, "allow_unused": True}
    second = torch.autograd.grad(slopes, inputs, again, **options)
    truths = torch.autograd.grad(truths, inputs, again, **options)
    for ours, truth in zip(second, truths, strict=True):
        close(ours, truth, dtype, 20_000)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_every_rest_of_rows_and_columns(dtype):
    """Tiles of a product take twelve rows and two vectors of columns, and whatever is left over."""
    sizes = [(1, rows, 5, 36, 1) for rows in range(1, 60)]
    sizes += [(1, 50, d, width, 1) for d in (1, 7, 33) for width in (4, 12, 20, 68, 132, 300)]
    for size in sizes:
        operands = draw(size, dtype)
        x = operands[0].requires_grad_()
        weight = operands[3][0].layers[0].requires_grad_()
        results, truths = mlp_potentials(*operands), by_autograd(*operands)
        for ours, truth in zip(results, truths, strict=True):
            close(ours.detach(), truth.detach(), dtype)
        totals = [sum(each.square().sum() for each in found) for found in (results, truths)]
        slopes, wanted = (torch.autograd.grad(total, (x, weight)) for total in totals)
        for ours, truth in zip(slopes, wanted, strict=True):
            close(ours, truth, dtype, 20_000)


@pytest.mark.parametrize("size", [(2, 3, 2, 3, 2), (1, 2, 3, 2, 1)], ids=str)
def test_gradcheck_and_gradgradcheck(size):
    x, numbers, shifts, networks = draw(size)
    inputs = leaves(x, numbers, shifts, networks)
    depth = size[4]

    def call(x, numbers, *rest):
        rest, models = [*rest], len(networks)
        shifts, rest = rest[:models], rest[models:]
        results = []
        for _ in range(models):
            entry, bias, *middle = rest[: 2 + depth]
            results.append(Perceptron(entry, bias, middle, *rest[2 + depth : 4 + depth]))
            rest = rest[4 + depth :]
        return mlp_potentials(x, numbers, shifts, results)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_a_network_given_twice_gets_both_derivatives():
    x, numbers, shifts, networks = draw((2, 9, 3, 8, 2))
    twice = [networks[0], networks[0]]
    inputs = leaves(x, numbers, shifts, twice)
    results = [torch.autograd.grad(sum(t.square().sum() for t in f(x, numbers, shifts, twice)), inputs)
             for f in (mlp_potentials, by_autograd)]  # fmt: skip
    for ours, truth in zip(*results, strict=True):
        close(ours, truth, DOUBLE, 2000)


def test_every_requested_gradient_arrives():
    """Gradients arrive from backward() with and without inputs, for leaves and others, twice from one graph."""
    x, numbers, shifts, networks = draw((2, 40, 3, 8, 2))
    inputs = leaves(x, numbers, shifts, networks)

    def loss(function, x=x):
        energies, fields = function(x, numbers, shifts, networks)
        return energies.square().sum() + fields.square().sum()

    wanted = torch.autograd.grad(loss(by_autograd), inputs)
    exit = networks[0].exit
    to_exit = next(w for t, w in zip(inputs, wanted, strict=True) if t is exit)
    loss(mlp_potentials).backward()
    for tensor, truth in zip(inputs, wanted, strict=True):
        close(tensor.grad, truth, DOUBLE, 2000)
        tensor.grad = None
    loss(mlp_potentials).backward(inputs=[exit])
    close(exit.grad, to_exit, DOUBLE, 2000)
    assert x.grad is None
    turned = x * 1.0
    whole = loss(mlp_potentials, turned)
    (slope,) = torch.autograd.grad(whole, exit, retain_graph=True)
    close(slope, to_exit, DOUBLE, 2000)
    (slope,) = torch.autograd.grad(whole, turned)
    close(slope, wanted[0], DOUBLE, 2000)
    again = torch.utils.checkpoint.checkpoint(loss, mlp_potentials, use_reentrant=False)
    slopes = torch.autograd.grad(again, (x, numbers))
    for ours, truth in zip(slopes, wanted, strict=False):
        close(ours, truth, DOUBLE, 2000)


def test_nothing_else_is_computed(monkeypatch):
    """A sampler's probe needs the gradient of x, training those of weights; no other one is computed."""
    requested, whole = [], torch.ops.edmfast.mlp_potential_backward
    monkeypatch.setattr(
        torch.ops.edmfast,
        "mlp_potential_backward",
        lambda *operands: (requested.append(operands[-2:]), whole(*operands))[1],
    )
    x, numbers, shifts, networks = draw((1, 9, 3, 8, 5))
    leaves(x, numbers, shifts, networks)
    weight = networks[0].layers[0]
    for wanted in ([x], [weight], [x, weight]):
        results, truth = (
            torch.autograd.grad(function(x, numbers, shifts, networks)[1].square().sum(), wanted)
            for function in (mlp_potentials, by_autograd)
        )
        for ours, slope in zip(results, truth, strict=True):
            close(ours, slope, DOUBLE, 2000)
    assert requested == [(True, False), (False, True), (True, True)]


@pytest.mark.parametrize("which", [0, 1])
def test_one_cotangent_or_none(which):
    x, numbers, shifts, networks = draw((1, 9, 3, 8, 2))
    x.requires_grad_()
    for function in (mlp_potentials, by_autograd):
        (slope,) = torch.autograd.grad(function(x, numbers, shifts, networks)[which].sum(), x)
        if function is mlp_potentials:
            ours = slope
    close(ours, slope, DOUBLE, 2000)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_activation_everywhere(dtype):
    """One hidden number passes one layer: silu and its slope from -1000 to 1000, and at infinity."""
    z = torch.cat([torch.linspace(-100, 100, 4001), torch.tensor([-1e3, 1e3])]).to(dtype)[:, None]
    unit = torch.ones(1, 1, dtype=dtype)
    network = Perceptron(0 * unit, unit[0] * 0, [0 * unit], unit, 0 * unit[0])
    # the hidden number is 0 and then silu(z), so the energy is y²/2 - y silu(z) for y = 1
    numbers = torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=dtype)
    shifts = z.clone().requires_grad_()
    energy, _ = mlp_potential(torch.ones_like(z), numbers, shifts, network)
    silu = torch.nn.functional.silu(z[:, 0].double().requires_grad_())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(energy.double(), 0.5 - silu, rtol=4 * eps, atol=4 * eps)
    (slope,) = torch.autograd.grad(energy.sum(), shifts)
    exact = z.double().requires_grad_()
    (truth,) = torch.autograd.grad(-torch.nn.functional.silu(exact).sum(), exact)
    torch.testing.assert_close(slope.double(), truth, rtol=8 * eps, atol=8 * eps)


def test_bits_depend_neither_on_the_batch_nor_on_the_threads(with_threads):
    """Values have the same bits in the batches that a model pads, and gradients of weights for any threads."""
    x, numbers, shifts, networks = draw((2, 2000, 64, 32, 3), torch.float32)
    inputs = leaves(x, numbers, shifts, networks)

    def run(part=slice(None)):
        results = mlp_potentials(x[part], numbers[:, part], [s[part] for s in shifts], networks)
        gradients = torch.autograd.grad(sum(each.sum() for each in results), inputs)
        return *results, gradients[0][part], gradients[1][:, part], *gradients[2:]

    with with_threads(1):
        whole = run()
    with with_threads(2):
        assert all(torch.equal(a, b) for a, b in zip(run(), whole, strict=True))
    for threads in (1, 2):
        with with_threads(threads):
            for start, rows in ((0, 32), (7, 48), (100, 1120), (16, 1984)):
                part = slice(start, start + rows)
                energies, fields, to_x, to_numbers, *_ = run(part)
                assert torch.equal(energies, whole[0][:, part])
                assert torch.equal(fields, whole[1][:, part])
                assert torch.equal(to_x, whole[2][part])
                assert torch.equal(to_numbers, whole[3][:, part])


def test_strides_and_shapes():
    x, numbers, shifts, networks = draw((2, 40, 6, 8, 2))
    wanted = mlp_potentials(x, numbers, shifts, networks)
    turned = [
        net._replace(entry=net.entry.T.contiguous().T, layers=[w.mT.clone().mT for w in net.layers])
        for net in networks
    ]
    spread = [s.T.contiguous().T for s in shifts]
    operands = x.reshape(40, 2, 3), numbers.mT.contiguous().mT, spread, turned
    energy, field = mlp_potentials(*operands)
    assert field.shape == (2, 40, 2, 3)
    close(energy, wanted[0], DOUBLE)
    close(field.flatten(2), wanted[1], DOUBLE)


def arguments(size, dtype=torch.float32, shared=False):
    x, numbers, shifts, networks = draw(size, dtype, shared)
    entry, bias, layers, exit, exit_bias = ([*part] for part in zip(*networks, strict=True))
    return x, numbers, shifts, entry, bias, [w for each in layers for w in each], exit, exit_bias


@pytest.mark.parametrize("shared", [False, True])
def test_opcheck(shared):
    operators, operands = torch.ops.edmfast, arguments((2, 33, 4, 8, 2), shared=shared)
    leaf = operands[0].clone().requires_grad_(), *operands[1:]
    torch.library.opcheck(operators.mlp_potential.default, (*leaf, True))
    torch.library.opcheck(operators.mlp_potential.default, (*operands, False))
    e, v, kept = operators.mlp_potential(*operands, True)
    for flags in ((True, True), (True, False), (False, True)):
        for saved in (kept, torch.empty(0)):
            last = (e, v, *operands, saved, *flags)
            torch.library.opcheck(operators.mlp_potential_backward.default, last)


def test_compiled_it_is_the_same():
    x, numbers, shifts, networks = draw((1, 33, 4, 8, 2), torch.float32)

    @torch.compile(fullgraph=True)
    def call(x):
        return mlp_potential(x, numbers[0], shifts[0], networks[0])[1] * 2

    leaf = x.clone().requires_grad_()
    ours = call(leaf)
    wanted = 2 * mlp_potential(x, numbers[0], shifts[0], networks[0])[1]
    close(ours.detach(), wanted, torch.float32)
    assert torch.autograd.grad(ours.sum(), leaf)[0].isfinite().all()


@pytest.mark.parametrize(
    ("place", "value", "error", "message"),
    [
        (1, torch.zeros(3, 4), ValueError, r"coefficients must be \[1, 4, 4\], got \[1, 3, 4\]"),
        (2, torch.zeros(2, 16), ValueError, r"shifts must be \[4, 16\]"),
        (0, torch.zeros(4, 2), ValueError, r"entry must be \[8, 2\]"),
        (1, torch.zeros(4, 4).double(), TypeError, "float64"),
    ],
)
def test_errors(place, value, error, message):
    x, numbers, shifts, networks = draw((1, 4, 3, 8, 2), torch.float32)
    operands = [x, numbers[0], shifts[0], networks[0]]
    operands[place] = value
    with pytest.raises(error, match=message):
        mlp_potential(*operands)


def test_errors_of_several_and_forward_mode():
    x, numbers, shifts, networks = draw((2, 4, 3, 8, 2), torch.float32)
    with pytest.raises(ValueError, match="shifts for each network, got 1 for 2"):
        mlp_potentials(x, numbers, shifts[:1], networks)
    shallow = [networks[0], networks[1]._replace(layers=networks[1].layers[:1])]
    with pytest.raises(ValueError, match="2 layers each, got 1"):
        mlp_potentials(x, numbers, shifts, shallow)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match="forward-mode"):
            mlp_potentials(dual, numbers, shifts, networks)
