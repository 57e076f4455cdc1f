"""An operator's value, gradients and second derivatives as one job, eagerly or as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from bench.harness.inputs import tensors
from bench.harness.registry import DIRECTIONS, FORWARD
from edmfast.models.compiling.flat import compile_graph

Function = Callable[..., Any]
"""Tensors -> a tensor or a tuple of them."""
Tensors = Sequence[Tensor]


def inputs_for(function: Function, inputs: Tensors) -> tuple[tuple[Tensor, ...], ...]:
    """(inputs, cotangents of the outputs, cotangents of the gradients), which are like the inputs."""
    generator = torch.Generator().manual_seed(1)

    def like(tensor: Tensor) -> Tensor:
        drawn = torch.randn(tensor.shape, generator=generator)
        return drawn.to(tensor.device, tensor.dtype)

    with torch.no_grad():
        outputs = tensors(function(*inputs))
    given = tuple(tensor.detach() for tensor in inputs)
    return given, tuple(map(like, outputs)), tuple(map(like, given))


def differentiate(
    function: Function, direction: str, inputs: Tensors, first: Tensors, second: Tensors
) -> tuple[Tensor, ...]:
    """All that comes up to this direction: outputs; gradients of the inputs along `first`; gradients of `first`
    and of the inputs along `second`. One tuple."""
    order = DIRECTIONS.index(direction)
    if order == 0:
        with torch.no_grad():
            return tuple(tensors(function(*inputs)))
    with torch.enable_grad():
        cotangents, leaves = (
            [tensor.detach().requires_grad_() for tensor in each] for each in (first, inputs)
        )
        outputs = tensors(function(*leaves))
        slopes = torch.autograd.grad(outputs, leaves, cotangents, create_graph=order == 2)
        found = [*outputs, *slopes]
        if order == 2:
            wanted = [*cotangents, *leaves]
            found += torch.autograd.grad(slopes, wanted, second, materialize_grads=True)
    return tuple(tensor.detach() for tensor in found)


def in_double(function: Function, direction: str) -> Function:
    def call(*trees: Tensors) -> tuple[Tensor, ...]:
        wide = pytree.tree_map_only(Tensor, lambda tensor: tensor.double(), trees)
        return differentiate(function, direction, *wide)

    return call


def compiled(function: Function, direction: str) -> Function:
    """As one flat graph, made at the first call: torch.compile has no double backward of its own."""
    made: dict[Any, Callable[..., tuple[Tensor, ...]]] = {}

    def call(*trees: Tensors) -> tuple[Tensor, ...]:
        given, structure = pytree.tree_flatten(trees)
        key = tuple((tensor.device, tensor.shape) for tensor in given)
        if key not in made:

            def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
                nested = pytree.tree_unflatten([*leaves], structure)
                return differentiate(function, direction, *nested)

            with torch.no_grad():
                made[key] = compile_graph(make_fx(flat)(*given), [*given], None)
        with torch.no_grad():
            return made[key](*given)

    return call


def compiled_forward(function: Function) -> Function:
    """The tensors of function(*inputs) by one flat graph for each shape, however many shapes there are."""
    graph = compiled(function, FORWARD)
    return lambda *inputs: graph(inputs, (), ())


def run(function: Function, direction: str) -> Function:
    return partial(differentiate, function, direction)
