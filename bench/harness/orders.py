"""Turn an operator with its derivatives into one job, eager or as one compiled graph."""

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
from edmfast.models.compiling.flat_graph import compile_graph

Function = Callable[..., Any]
"""A function from tensors to a tensor or a tuple of tensors."""
Tensors = Sequence[Tensor]


def inputs_for(function: Function, inputs: Tensors) -> tuple[tuple[Tensor, ...], ...]:
    """Return (inputs, cotangents of the outputs, cotangents of the gradients).

    The cotangents of the gradients have the shapes of the inputs.
    """
    generator = torch.Generator().manual_seed(1)

    def like(tensor: Tensor) -> Tensor:
        # numbers are drawn on the CPU, so that every device gets the same ones
        drawn = torch.randn(tensor.shape, generator=generator)
        return drawn.to(tensor.device, tensor.dtype)

    with torch.no_grad():
        outputs = tensors(function(*inputs))
    plain = tuple(tensor.detach() for tensor in inputs)
    return plain, tuple(map(like, outputs)), tuple(map(like, plain))


def differentiate(
    function: Function, direction: str, inputs: Tensors, first: Tensors, second: Tensors
) -> tuple[Tensor, ...]:
    """Return everything up to this order of derivative as one tuple.

    That is the outputs, then the gradients of the inputs along `first`, then the gradients of `first` and of the
    inputs along `second`.
    """
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
        results = [*outputs, *slopes]
        if order == 2:
            sources = [*cotangents, *leaves]
            # the slopes may not depend on a source, but every implementation gives as many tensors
            results += torch.autograd.grad(slopes, sources, second, materialize_grads=True)
    return tuple(tensor.detach() for tensor in results)


def in_double(function: Function, direction: str) -> Function:
    """Return the same job in float64."""

    def call(*trees: Tensors) -> tuple[Tensor, ...]:
        wide = pytree.tree_map_only(Tensor, lambda tensor: tensor.double(), trees)
        return differentiate(function, direction, *wide)

    return call


def compiled(function: Function, direction: str) -> Function:
    """Return the job as one flat graph, made at the first call: torch.compile has no double backward of its
    own."""
    made: dict[Any, Callable[..., tuple[Tensor, ...]]] = {}

    def call(*trees: Tensors) -> tuple[Tensor, ...]:
        leaves_of_call, structure = pytree.tree_flatten(trees)
        # a graph holds for one device and for one set of shapes
        key = tuple((tensor.device, tensor.shape) for tensor in leaves_of_call)
        if key not in made:

            def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
                nested = pytree.tree_unflatten([*leaves], structure)
                return differentiate(function, direction, *nested)

            with torch.no_grad():
                made[key] = compile_graph(make_fx(flat)(*leaves_of_call), [*leaves_of_call], None)
        with torch.no_grad():
            return made[key](*leaves_of_call)

    return call


def compiled_forward(function: Function) -> Function:
    """Return function(*inputs) as one flat graph for each shape, for any number of shapes."""
    graph = compiled(function, FORWARD)
    return lambda *inputs: graph(inputs, (), ())


def run(function: Function, direction: str) -> Function:
    """Return the job that runs eagerly."""
    return partial(differentiate, function, direction)
