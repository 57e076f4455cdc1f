"""Time energy and score of a residual perceptron, and its training step, against the definition with autograd."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.harness.correctness import close
from bench.harness.networks import mlp_flops, mlp_products, network
from bench.harness.registry import BACKWARD, Case
from edmfast.ops.mlp_potential.operator import Perceptron, mlp_potential
from edmfast.ops.mlp_potential.reference import mlp_potential as by_hand

WIDTH, DEPTH, ELEMENTS = 128, 4, 64
Inputs = tuple[Tensor, ...]
Answer = tuple[Tensor, ...]


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Inputs:
    """Return x [B, 64], coefficients [B, 4], and the shifts of one noise level [1, depth W]."""
    generator = torch.Generator().manual_seed(0)
    shapes = shape, (shape[0], 4), (1, DEPTH * WIDTH)
    return tuple(torch.randn(s, generator=generator).to(device, dtype) for s in shapes)


def make_training(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Inputs:
    """Return the same with a noise level for each row, and cotangents of energy and field."""
    x, pairs, _ = make_inputs(shape, dtype, device)
    generator = torch.Generator().manual_seed(1)
    shapes = (shape[0], DEPTH * WIDTH), shape[:1], shape
    shifts, e, v = (torch.randn(s, generator=generator).to(device, dtype) for s in shapes)
    return x, pairs, shifts, e, v


def perceptron(device: torch.device, dtype: torch.dtype = torch.float32) -> Perceptron:
    backbone: Any = network("mlp", device, dtype).backbone
    entry, exit = backbone.input, backbone.output
    layers = [layer.weight for layer in backbone.layers]
    return Perceptron(entry.weight, entry.bias, layers, exit.weight, exit.bias)


def ours(x: Tensor, pairs: Tensor, shifts: Tensor) -> Answer:
    return mlp_potential(x, pairs, shifts, perceptron(x.device))


def formulas(
    x: Tensor, pairs: Tensor, shifts: Tensor, net: Perceptron, create_graph: bool
) -> Answer:
    entry, entry_bias, layers, exit, exit_bias = net
    c, w, a, b = pairs.unsqueeze(2).unbind(1)
    y = (c * x).requires_grad_()
    hidden = torch.nn.functional.linear(y, entry, entry_bias)
    for layer, shift in zip(layers, shifts.chunk(DEPTH, 1), strict=True):
        hidden = hidden + torch.nn.functional.silu(hidden @ layer.T + shift)
    h = torch.nn.functional.linear(hidden, exit, exit_bias)
    f = w[:, 0] * (h * y).sum(1)
    (slope,) = torch.autograd.grad(f.sum(), y, create_graph=create_graph)
    return 0.5 * y.square().sum(1) - f, a * slope + b * y


def autograd(x: Tensor, pairs: Tensor, shifts: Tensor) -> Answer:
    with torch.enable_grad():
        energy, field = formulas(x, pairs, shifts, perceptron(x.device), False)
    return energy.detach(), field.detach()


def plain(x: Tensor, pairs: Tensor, shifts: Tensor) -> Answer:
    """Compute the same adjoint by hand in plain torch, for all rows at once."""
    net = perceptron(x.device, x.dtype)
    lists = [net.entry], [net.entry_bias], [*net.layers], [net.exit], [net.exit_bias]
    energy, field, _ = by_hand(x, pairs[None], [shifts], *lists, False)
    return energy[0], field[0]


_graph = torch.compile(by_hand, dynamic=False)


def compiled(x: Tensor, pairs: Tensor, shifts: Tensor) -> Answer:
    net = perceptron(x.device, x.dtype)
    lists = [net.entry], [net.entry_bias], [*net.layers], [net.exit], [net.exit_bias]
    energy, field, _ = _graph(x, pairs[None], [shifts], *lists, False)
    return energy[0], field[0]


def _without_graph(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*inputs: Tensor) -> Any:
        with torch.no_grad():
            return function(*inputs)

    return call


def _training(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Return gradients of weights and shifts for cotangents of the outputs of `function`."""

    def step(x: Tensor, pairs: Tensor, shifts: Tensor, e: Tensor, v: Tensor) -> Answer:
        net = perceptron(x.device, x.dtype)
        leaf = shifts.detach().requires_grad_()
        with torch.enable_grad():
            outputs = function(x, pairs, leaf, net)
            wanted = [leaf, net.entry, net.entry_bias, *net.layers, net.exit, net.exit_bias]
            return torch.autograd.grad(outputs, wanted, (e, v))

    return step


def products(training: bool) -> Callable[..., None]:
    def call(x: Tensor, *_: Tensor) -> None:
        mlp_products(x.shape[0], x.device, training=training)

    return call


def check(output: Answer, truth: Answer) -> None:
    close(1e-3, 1e-3 * max(1.0, *(each.abs().max().item() for each in truth)))(output, truth)


def _double(function: Callable[..., Answer]) -> Callable[..., Answer]:
    return lambda *inputs: function(*(tensor.double() for tensor in inputs))


def case(rows: int) -> Case:
    return Case(
        name=f"mlp_potential/{rows}x64",
        shape=(rows, ELEMENTS),
        make_inputs=make_inputs,
        ours=_without_graph(ours),
        baselines={
            "autograd": autograd,
            "by hand": _without_graph(plain),
            "compile": _without_graph(compiled),
            "2 F products": _without_graph(products(False)),
        },
        reference=_double(_without_graph(plain)),
        check=check,
        goal=1.4,
        goals={"2 F products": 1 / 1.4},
        bounds=("2 F products",),
        unchecked=("2 F products",),
        # x is read, and the field is written
        bytes=8 * ELEMENTS * rows,
        # the forward takes F, and so does the adjoint of the input
        flops=2 * mlp_flops(rows),
    )


def training_case(rows: int) -> Case:
    differentiated = _training(functools.partial(formulas, create_graph=True))
    return Case(
        name=f"mlp_potential backward/{rows}x64",
        shape=(rows, ELEMENTS),
        make_inputs=make_training,
        ours=_training(mlp_potential),
        baselines={"autograd": differentiated, "6 F products": _without_graph(products(True))},
        reference=_double(differentiated),
        check=check,
        direction=BACKWARD,
        goal=1.6,
        goals={"6 F products": 1 / 1.6},
        bounds=("6 F products",),
        unchecked=("6 F products",),
        # x and v are read; shifts are read, and their gradient is written
        bytes=8 * (ELEMENTS + DEPTH * WIDTH) * rows,
        flops=6 * mlp_flops(rows),
    )


CASES = [case(256), case(4096), case(65_536), training_case(256), training_case(4096)]
