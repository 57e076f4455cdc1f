"""Training steps that are traced on the CPU hold plain formulas, and everything else holds the operators."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import edmfast
from edmfast import ops

COEFFICIENTS = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)


def potential(h, y, z, numbers):
    energy, cotangent = ops.potential(h, y, numbers[:, 0])
    return energy.sin().sum() + (cotangent.cos() * z).sum()


def assemble(h, y, z, numbers):
    return ops.potential_assemble(h, y, z, numbers).sin().sum()


def combination(h, y, z, numbers):
    return ops.linear_combination([h, y, z], COEFFICIENTS).sin().sum() * numbers.sum()


FUNCTIONS = [potential, assemble, combination]


def second(function, *inputs):
    """Return the gradients of the squared gradients, and the function itself."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    value = function(*leaves)
    slopes = torch.autograd.grad(value, leaves, create_graph=True)
    bent = torch.autograd.grad(sum(slope.square().sum() for slope in slopes), leaves)
    return value.detach(), *(slope.detach() for slope in slopes), *bent


def inputs_of(elements, dtype=torch.float64, rows=3):
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(rows, elements, generator=generator, dtype=dtype) for _ in range(3)]
    return *draw, torch.randn(rows, 3, generator=generator, dtype=dtype)


def operators(graph):
    return {str(node.target) for node in graph.graph.nodes if "edmfast" in str(node.target)}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("elements", [1, 7, 64])
def test_traced_steps_hold_the_formula_and_its_numbers(function, elements):
    inputs = inputs_of(elements)
    graph = make_fx(lambda *tensors: second(function, *tensors))(*inputs)
    assert operators(graph) == set()
    for traced, eager in zip(graph(*inputs), second(function, *inputs), strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-12, atol=1e-12)


def test_long_rows_keep_sums_in_float64():
    inputs = inputs_of(1025)
    graph = make_fx(lambda *tensors: second(potential, *tensors))(*inputs)
    assert "edmfast.potential.default" in operators(graph)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_without_derivatives_the_operator_is_traced(function):
    with torch.no_grad():
        graph = make_fx(function)(*inputs_of(4))
    assert len(operators(graph)) == 1


@pytest.mark.parametrize("function", FUNCTIONS)
def test_torch_compile_has_the_numbers_of_eager(function):
    inputs = inputs_of(6)
    leaves = [[tensor.clone().requires_grad_() for tensor in inputs] for _ in range(2)]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    values = compiled(*leaves[0]), function(*leaves[1])
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
    slopes = [
        torch.autograd.grad(value, each, allow_unused=True)
        for value, each in zip(values, leaves, strict=True)
    ]
    for traced, eager in zip(*slopes, strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-12, atol=1e-12)


def test_flat_steps_of_several_batches_agree_with_eager():
    """The second batch size makes a graph with a symbol, the third one runs it."""
    weight = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(4, 4).requires_grad_()

    def loss(params, x, numbers):
        y = x.detach().requires_grad_()
        energy, _ = ops.potential(y @ params["weight"], y, numbers)
        (score,) = torch.autograd.grad(energy.sum(), y, create_graph=True)
        return score.square().mean()

    step = edmfast.flat_compile(loss, {"weight": weight})
    for rows in (3, 5, 6):
        x, *_, numbers = inputs_of(4, rows=rows)
        value, slopes = step(x, numbers[:, 0])
        wanted = loss({"weight": weight}, x, numbers[:, 0])
        torch.testing.assert_close(value, wanted.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(
            slopes["weight"], torch.autograd.grad(wanted, weight)[0], rtol=1e-10, atol=1e-12
        )
