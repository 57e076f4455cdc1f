"""Time operators in each order of derivative, against their formulas in torch, eager and compiled.

The operators are attention, the two passes of the potential, linear combinations and perceptrons;
`bench.cases.norms` has the orders of norms. A case computes all orders up to its own, in all inputs together. The
baselines get the same from autograd on the plain formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.cases.mlp_potential import DEPTH, ELEMENTS, formulas, perceptron
from bench.harness import orders
from bench.harness.correctness import close
from bench.harness.inputs import size_in_bytes, tensors
from bench.harness.networks import mlp_flops
from bench.harness.registry import BACKWARD, DIRECTIONS, DOUBLE_BACKWARD, FORWARD, Case
from edmfast import ops
from edmfast.ops.mlp_potential.operator import Perceptron

Draw = Callable[[tuple[int, ...], torch.dtype, torch.device], tuple[Tensor, ...]]
Baselines = dict[str, Callable[..., Any]]
MODELS = 4
_UNCOMPILED = "ours uncompiled"


def by_formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


def _potential(h: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return 0.5 * y.square().sum(1) - weight * (h * y).sum(1), weight[:, None] * y


def _assemble(h: Tensor, pullback: Tensor, y: Tensor, coefficients: Tensor) -> Tensor:
    a, b, c = coefficients[:, :, None].unbind(1)
    return a * h + b * pullback + c * y


def _combined(*states: Tensor) -> Tensor:
    return ops.linear_combination(states, _combination(states[0].device))


@cache
def _combination(device: torch.device) -> Tensor:
    # a solver keeps its coefficients where the states are
    return torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64, device=device)


def _combined_plain(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return 0.5 * x - 2.0 * y + 3.0 * z


def _networks(weights: Sequence[Tensor]) -> list[Perceptron]:
    each = 4 + DEPTH
    parts = [weights[i : i + each] for i in range(0, len(weights), each)]
    return [Perceptron(p[0], p[1], [*p[2:-2]], p[-2], p[-1]) for p in parts]


def _one(x: Tensor, pairs: Tensor, shifts: Tensor, *weights: Tensor) -> Any:
    return ops.mlp_potential(x, pairs, shifts, _networks(weights)[0])


def _one_plain(x: Tensor, pairs: Tensor, shifts: Tensor, *weights: Tensor) -> Any:
    # the formula takes one derivative itself, and its graph is kept only where another follows
    recorded = x.requires_grad
    with torch.enable_grad():
        return formulas(x, pairs, shifts, _networks(weights)[0], recorded)


def _many(x: Tensor, pairs: Tensor, shifts: Tensor, *weights: Tensor) -> Any:
    return ops.mlp_potentials(x, pairs, [*shifts], _networks(weights))


def _many_plain(x: Tensor, pairs: Tensor, shifts: Tensor, *weights: Tensor) -> Any:
    each = 4 + DEPTH
    answers = [
        _one_plain(x, pairs[k], shifts[k], *weights[k * each : (k + 1) * each])
        for k in range(len(pairs))
    ]
    energies, fields = zip(*answers, strict=True)
    return torch.stack(energies), torch.stack(fields)


def _draw_all(
    shapes: Callable[[tuple[int, ...]], Sequence[tuple[int, ...]]],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(s, generator=generator).to(device, dtype) for s in shapes(shape))


def _draw_perceptrons(
    models: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """Draw several networks that differ by a factor, so that a mix-up of two shows."""
    net = perceptron(device, dtype)
    width = net.entry.shape[0]
    before = () if models == 1 else (models,)

    def shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [shape, (*before, shape[0], 4), (*before, shape[0], DEPTH * width)]

    x, pairs, shifts = _draw_all(shapes, shape, dtype, device)
    leaves = [net.entry, net.entry_bias, *net.layers, net.exit, net.exit_bias]
    weights = [w.detach() * (1 + 0.1 * k) for k in range(models) for w in leaves]
    return x, pairs, shifts, *weights


def check(output: Any, truth: Any) -> None:
    """Compare each tensor within a thousandth of its largest element."""
    for result, wanted in zip(tensors(output), tensors(truth), strict=True):
        close(1e-3, 1e-4 * max(1.0, wanted.abs().max().item()))(result, wanted)


def _cases(
    name: str,
    shape: tuple[int, ...],
    draw: Draw,
    ours: Callable[..., Any],
    plain: Callable[..., Any],
    directions: Sequence[str],
    goal: float,
    flops: Sequence[int] = (0, 0, 0),
    extra: Callable[[str], Baselines] = lambda direction: {},
    compiled: bool = False,
) -> list[Case]:
    """Return a case for each order.

    flops: for each direction, 0 where reading and writing takes longer. goal: against the best of torch, which is
    mostly the compiled graph: it fuses orders into each other, and separate operators cannot. compiled: in orders
    with derivatives ours is compiled in the same way, as `edmfast.flat_compile` does for users, and "ours
    uncompiled" stands beside it.
    """
    eager = {direction: orders.run(ours, direction) for direction in directions}
    graphs = {d: orders.compiled(ours, d) for d in directions if compiled and d != FORWARD}

    def make_inputs(*sizes: Any) -> tuple[tuple[Tensor, ...], ...]:
        return orders.inputs_for(plain, draw(*sizes))

    small = [*make_inputs(shape, torch.float32, torch.device("cpu"))]
    sizes = [size_in_bytes(each) for each in small]
    # forward: inputs in, outputs out; backward adds the cotangents in and the inputs' gradients out; double
    # backward adds the cotangents of these gradients in, and the gradients of cotangents and inputs out
    least = [
        sizes[0] + sizes[1],
        2 * sizes[0] + 2 * sizes[1],
        4 * sizes[0] + 3 * sizes[1],
    ]
    return [
        Case(
            name=f"{name} {direction} {'x'.join(map(str, shape))}",
            shape=shape,
            make_inputs=make_inputs,
            ours=graphs.get(direction, eager[direction]),
            baselines={
                "eager": orders.run(plain, direction),
                "compile": orders.compiled(plain, direction),
                **extra(direction),
                **({_UNCOMPILED: eager[direction]} if direction in graphs else {}),
            },
            goals={_UNCOMPILED: 1.0} if direction in graphs else {},
            bounds=(_UNCOMPILED,) if direction in graphs else (),
            reference=orders.in_double(plain, direction),
            check=check,
            direction=direction,
            goal=goal,
            bytes=least[DIRECTIONS.index(direction)],
            flops=flops[DIRECTIONS.index(direction)],
        )
        for direction in directions
    ]


def _by_torch(direction: str) -> Baselines:
    if direction == DOUBLE_BACKWARD:
        return {}
    return {"torch": orders.run(F.scaled_dot_product_attention, direction)}


_HEADS = (8, 512, 64)
_PRODUCTS = 2 * _HEADS[0] * _HEADS[1] ** 2 * _HEADS[2]
_ROWS = (4096, 64)
_FEW = (256, ELEMENTS)
_F, _F4 = mlp_flops(_FEW[0]), MODELS * mlp_flops(_FEW[0])
CASES = [
    *_cases(
        "attention/plain",
        _HEADS,
        partial(_draw_all, lambda s: [s] * 3),
        ops.attention,
        by_formula,
        (FORWARD, BACKWARD),
        1.0,
        (2 * _PRODUCTS, 7 * _PRODUCTS, 19 * _PRODUCTS),
        _by_torch,
    ),
    *_cases(
        "potential/pass",
        _ROWS,
        partial(_draw_all, lambda s: [s, s, s[:1]]),
        ops.potential,
        _potential,
        DIRECTIONS,
        1.0,
        compiled=True,
    ),
    *_cases(
        "potential/assemble",
        _ROWS,
        partial(_draw_all, lambda s: [s, s, s, (s[0], 3)]),
        ops.potential_assemble,
        _assemble,
        DIRECTIONS,
        1.0,
        compiled=True,
    ),
    *_cases(
        "linear_combination/three",
        _ROWS,
        partial(_draw_all, lambda s: [s] * 3),
        _combined,
        _combined_plain,
        (BACKWARD, DOUBLE_BACKWARD),
        1.0,
        compiled=True,
    ),
    *_cases(
        "mlp_potential/one",
        _FEW,
        partial(_draw_perceptrons, 1),
        _one,
        _one_plain,
        (DOUBLE_BACKWARD,),
        1.0,
        (2 * _F, 6 * _F, 6 * _F),
    ),
    *_cases(
        f"mlp_potentials/{MODELS} of",
        _FEW,
        partial(_draw_perceptrons, MODELS),
        _many,
        _many_plain,
        DIRECTIONS,
        1.0,
        (2 * _F4, 6 * _F4, 6 * _F4),
    ),
]
