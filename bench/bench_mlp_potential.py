"""Energy and score of a residual perceptron as one operator, against its definition by autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.correctness import close
from bench.networks import mlp_flops, mlp_products, network
from bench.registry import Case
from edmfast.ops.mlp_potential import Perceptron, mlp_potential
from edmfast.reference.mlp_potential import mlp_potential as by_hand

WIDTH, DEPTH = 128, 4
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
Answer = tuple[Tensor, Tensor]


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Inputs:
    """y [B, 64], weight [B], shifts of one noise level [1, depth W], coefficients [B, 2]."""
    generator = torch.Generator().manual_seed(0)
    shapes = shape, shape[:1], (1, DEPTH * WIDTH), (shape[0], 2)
    y, weight, shifts, pairs = (
        torch.randn(size, generator=generator).to(device, dtype) for size in shapes
    )
    return y, weight, shifts, pairs


def _network(device: torch.device) -> Perceptron:
    backbone: Any = network("mlp", device).backbone
    layers = [layer.weight.detach() for layer in backbone.layers]
    entry, exit = backbone.input, backbone.output
    return Perceptron(
        entry.weight.detach(),
        entry.bias.detach(),
        layers,
        exit.weight.detach(),
        exit.bias.detach(),
    )


def ours(y: Tensor, weight: Tensor, shifts: Tensor, pairs: Tensor) -> Answer:
    return mlp_potential(y, weight, shifts, pairs, _network(y.device))


def autograd(y: Tensor, weight: Tensor, shifts: Tensor, pairs: Tensor) -> Answer:
    entry, entry_bias, layers, exit, exit_bias = _network(y.device)
    leaf = y.detach().requires_grad_()
    hidden = torch.nn.functional.linear(leaf, entry, entry_bias)
    for layer, shift in zip(layers, shifts.chunk(DEPTH, 1), strict=True):
        hidden = hidden + torch.nn.functional.silu(hidden @ layer.T + shift)
    h = torch.nn.functional.linear(hidden, exit, exit_bias)
    f = weight * (h * leaf).sum(1)
    (slope,) = torch.autograd.grad(f.sum(), leaf)
    return 0.5 * y.square().sum(1) - f.detach(), pairs[:, :1] * slope + pairs[:, 1:] * y


def plain(y: Tensor, weight: Tensor, shifts: Tensor, pairs: Tensor) -> Answer:
    """The same adjoint by hand in plain torch, all rows at once."""
    entry, entry_bias, layers, exit, exit_bias = _network(y.device)
    return by_hand(y, weight, shifts, pairs, entry, entry_bias, list(layers), exit, exit_bias)


def products(y: Tensor, *_: Tensor) -> None:
    mlp_products(y.shape[0], y.device, training=False)


def reference(y: Tensor, weight: Tensor, shifts: Tensor, pairs: Tensor) -> Answer:
    entry, entry_bias, layers, exit, exit_bias = _network(y.device)
    return by_hand(
        y.double(),
        weight.double(),
        shifts.double(),
        pairs.double(),
        entry.double(),
        entry_bias.double(),
        [layer.double() for layer in layers],
        exit.double(),
        exit_bias.double(),
    )


def check(output: Answer | None, truth: Answer) -> None:
    if output is not None:  # bare matrix products answer nothing
        close(1e-3, 1e-3)(output, truth)


def case(rows: int) -> Case:
    return Case(
        name=f"mlp_potential/{rows}x64",
        shape=(rows, 64),
        make_inputs=make_inputs,
        ours=ours,
        baselines={"autograd": autograd, "by hand": plain, "2 F products": products},
        reference=reference,
        check=check,
        goal=1.4,
        goals={"2 F products": 1 / 1.4},
        bytes=8 * 64 * rows,
        flops=2 * mlp_flops(rows),
        devices=("cpu",),
    )


CASES = [case(256), case(4096), case(65_536)]
