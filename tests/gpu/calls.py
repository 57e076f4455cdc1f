"""Provide a call of every operator, with its derivatives where there are some, on any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from bench.report import derivatives
from edmfast import ops
from edmfast.ops.potential.operator import potential_field

Call = tuple[Callable[..., Sequence[Tensor]], list[Tensor]]


def two_orders(function: Callable[..., Sequence[Tensor]]) -> Callable[..., list[Tensor]]:
    """Return outputs, gradients of the sum of their squares, and gradients of the sum of squares of those."""

    def run(*inputs: Tensor) -> list[Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        outputs = function(*leaves)
        first = torch.autograd.grad(_squares(outputs), leaves, create_graph=True)
        second = torch.autograd.grad(_squares(first), leaves)
        return [tensor.detach() for tensor in (*outputs, *first, *second)]

    return run


def _squares(tensors: Sequence[Tensor]) -> Any:
    return sum(tensor.float().square().sum() for tensor in tensors)


def _derivable(name: str, device: str) -> Call:
    case = derivatives.CASES[name]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(device) for shape in case.shapes]
    return two_orders(case.ours), inputs


def _attention_forward_mode(device: str) -> Call:
    tensors = [*_particles(6, 1, 2, 33, 16, device=device)]

    def run(*tensors: Tensor) -> Sequence[Tensor]:
        return torch.func.jvp(ops.attention, tensors[:3], tensors[3:])

    return run, tensors


def _field(device: str) -> Call:
    states = [*_particles(3, 6, 40, device=device)]
    numbers = _particles(6, 4, device=device)
    return potential_field, [*states, numbers]


def _particles(*shape: int, device: str, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


def _weigh(particles: int, scheme: str, device: str) -> Call:
    shape = 3, particles
    start = ops.Weights.start(*shape, device=device)
    weights = _particles(*shape, device=device, dtype=torch.float64)
    rng = ops.rng_state(5, 2, device)
    before = ops.weigh_and_resample(start, weights, [], [], rng, ess_threshold=0.9)
    ratio, now, past = _particles(3, *shape, device=device)

    def run(ratio: Tensor, now: Tensor, past: Tensor, rng: Tensor) -> Sequence[Tensor]:
        return ops.weigh_and_resample(
            before, ratio, now, past, rng, scheme=scheme, ess_threshold=0.9
        )

    return run, [ratio, now, past, rng]


def _noise(device: str) -> Call:
    like = torch.empty(2, 5, 37, device=device)
    return lambda rng: (ops.standard_normal(like, rng=rng, stream=3),), [
        ops.rng_state(5, 2, device)
    ]


def _combination(device: str) -> Call:
    tensors = [*_particles(3, 2, 5, 37, device=device)]
    numbers = torch.tensor([1.0, -0.5, 0.25, 2.0], dtype=torch.float64, device=device)

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        *tensors, numbers, words = inputs
        noise = {"seeds": words[:1], "nodes": words[1:], "weights": numbers[3:]}
        return (ops.linear_combination(tensors, numbers[:3], **noise),)

    return run, [*tensors, numbers, torch.tensor([3, 4], device=device)]


def _signs(device: str) -> Call:
    like = torch.empty(2, 5, 3, 8, 8, device=device)
    return lambda rng: (ops.random_signs(like, count=6, coloured=True, rng=rng, stream=2),), [
        ops.rng_state(5, 2, device)
    ]


def _curvature(device: str) -> Call:
    products, normal = _particles(2, 3, 50, 12, device=device)
    probes = torch.ones_like(normal).copysign(normal)

    def run(products: Tensor, probes: Tensor, exponents: Tensor) -> Sequence[Tensor]:
        return (ops.curvature(products, probes, exponents),)

    return run, [products, probes, _exponents(device)]


def _curvature_matched(device: str) -> Call:
    curvature = _particles(3, 50, device=device, dtype=torch.float64)
    levels = torch.tensor([1.0, 0.7], dtype=torch.float64, device=device)
    ancestors = torch.arange(50, dtype=torch.int32, device=device).flip(0).repeat(3, 1)

    def run(curvature: Tensor, levels: Tensor, exponents: Tensor) -> Sequence[Tensor]:
        return (ops.curvature_matched(curvature, ancestors, levels, exponents),)

    return run, [curvature, levels, _exponents(device)]


def _exponents(device: str) -> Tensor:
    return torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64, device=device)


def _propagate(device: str) -> Call:
    x, score = _particles(2, 3, 50, 12, device=device)
    ancestors = torch.arange(50, dtype=torch.int32, device=device).flip(0).repeat(3, 1)
    numbers = torch.full((3, 3), 0.3, dtype=torch.float64, device=device)
    run = ops.propagate
    return run, [x, score, ancestors, numbers, ops.rng_state(5, 2, device)]


def _resample(particles: int, scheme: str, device: str) -> Call:
    weights = _particles(3, particles, device=device)
    rng = ops.rng_state(5, 2, device)
    return lambda weights, rng: ops.resample(weights, rng, scheme=scheme), [weights, rng]


def _systematic(particles: int, device: str) -> Call:
    uniform = torch.full((3,), 0.4, dtype=torch.float64, device=device)
    return ops.systematic_resample, [_particles(3, particles, device=device), uniform]


def _gram(device: str) -> Call:
    scores = _particles(3, 2, 40, 19, device=device)
    return ops.score_gram, [scores, scores[0].roll(1, 0)]


def _reversal(device: str) -> Call:
    scores = [*_particles(2, 2, 40, 19, device=device)]
    products = [*_particles(2, 2, 40, 3, 19, device=device)]
    probes = _particles(2, 40, 3, 19, device=device)
    exponents = torch.tensor([[1.5, -0.3]] * 2, dtype=torch.float64, device=device)
    levels = torch.tensor([1.0, 0.7], dtype=torch.float64, device=device)

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        *vectors, exponents, levels, probes = inputs
        return ops.reversal(vectors[:2], exponents, levels, products=vectors[2:], probes=probes)

    return run, [*scores, *products, exponents, levels, probes]


CALLS: dict[str, Callable[[str], Call]] = {
    **{name: lambda device, name=name: _derivable(name, device) for name in derivatives.CASES},
    "attention_jvp": _attention_forward_mode,
    "potential_field": _field,
    "linear_combination noise": _combination,
    "noise": _noise,
    "signs": _signs,
    "curvature": _curvature,
    "curvature_matched": _curvature_matched,
    "propagate": _propagate,
    "score_gram": _gram,
    "reversal": _reversal,
    **{
        f"systematic_resample {n}": lambda device, n=n: _systematic(n, device)
        for n in (30, 900, 9000)
    },
    **{
        f"resample {scheme}": lambda device, scheme=scheme: _resample(900, scheme, device)
        for scheme in ("stratified", "multinomial", "residual", "killing")
    },
    **{
        f"weigh_and_resample {scheme} {n}": lambda device, n=n, scheme=scheme: _weigh(
            n, scheme, device
        )
        for n, scheme in ((30, "systematic"), (900, "stratified"), (9000, "systematic"))
    },
}


def outputs(call: Call) -> list[Tensor]:
    function, inputs = call
    return [leaf for leaf in tree_leaves(function(*inputs)) if isinstance(leaf, Tensor)]


def change(inputs: Sequence[Tensor]) -> None:
    """Write other numbers into the same tensors; indices stay."""
    for tensor in inputs:
        if tensor.is_floating_point():
            tensor.mul_(0.7)
        elif tensor.dtype == torch.int64:  # this tensor is the state of the random numbers
            tensor[1:].add_(3)
