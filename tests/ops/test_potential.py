"""Test the potential and the assembly of a score: literal values, float64, derivatives, place in a batch."""

from __future__ import annotations

import pytest
import torch

from edmfast.ops import potential, potential_assemble
from edmfast.ops.potential import reference
from edmfast.ops.potential.operator import potential_field

DOUBLE = torch.float64
OPERATORS = {
    "potential": ("h", "y", "weight"),
    "potential_backward": ("e", "v", "h", "y", "weight"),
    "potential_double_backward": ("a", "b", "c", "e", "v", "h", "y", "weight"),
    "potential_assemble": ("h", "v", "y", "coefficients"),
    "potential_field": ("h", "v", "y", "numbers"),
    "potential_assemble_backward": ("a", "h", "v", "y", "coefficients"),
}
SHAPES = [(0, 3), (3, 0), (1, 1), (31, 2), (7, 15), (7, 16), (5, 37), (1000, 64), (3, 12_288)]


def draw(generator, *shape, dtype=DOUBLE):
    return torch.randn(shape, generator=generator, dtype=DOUBLE).to(dtype)


def arguments(name, shape, generator, dtype=DOUBLE):
    numbers = dict.fromkeys("ce", shape[:1]) | {"weight": shape[:1], "coefficients": (shape[0], 3)}
    numbers["numbers"] = (shape[0], 4)
    return [draw(generator, *numbers.get(key, shape), dtype=dtype) for key in OPERATORS[name]]


def call(name, inputs):
    results = getattr(torch.ops.edmfast, name)(*inputs)
    return results if isinstance(results, (tuple, list)) else (results,)


def truth_of(name, inputs):
    wide = [None if tensor is None else tensor.double() for tensor in inputs]
    results = getattr(reference, name)(*wide)
    return results if isinstance(results, tuple) else (results,)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_equals_float64(generator, name, shape, dtype):
    inputs = arguments(name, shape, generator, dtype)
    eps = torch.finfo(dtype).eps
    for ours, wanted in zip(call(name, inputs), truth_of(name, inputs), strict=True):
        assert ours.dtype == dtype
        # in a sum of d terms of size 1, each term and the result round once
        atol = 20 * eps * max(1.0, shape[1] ** 0.5)
        torch.testing.assert_close(ours.double(), wanted, rtol=20 * eps, atol=atol)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", ["potential_backward", "potential_double_backward"])
@pytest.mark.parametrize("absent", ["e", "v", "ev"])
def test_absent_cotangents_are_zero(generator, name, absent):
    inputs = arguments(name, (4, 21), generator)
    zeros = list(inputs)
    for argument in absent:
        place = OPERATORS[name].index(argument)
        inputs[place], zeros[place] = None, torch.zeros_like(zeros[place])
    for with_none, with_zeros in zip(call(name, inputs), call(name, zeros), strict=True):
        assert torch.equal(with_none, with_zeros)


def test_literal_values():
    h, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    energy, cotangent = potential(h, y, torch.tensor([0.5]))
    assert energy.tolist() == [4.5]
    assert cotangent.tolist() == [[1.5, -0.5]]
    out = potential_assemble(h, torch.tensor([[10.0, 20.0]]), y, torch.tensor([[2.0, 0.5, -1.0]]))
    assert out.tolist() == [[4.0, 15.0]]
    numbers = torch.tensor([[0.5, 2.0, 0.5, -1.0]])
    energy, out = potential_field(h, torch.tensor([[10.0, 20.0]]), y, numbers)
    assert energy.tolist() == [4.5]
    assert out.tolist() == [[4.0, 15.0]]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, DOUBLE])
def test_energy_and_field_in_one_pass(generator, shape, dtype):
    """They have the bits of two passes, and one row of numbers serves all rows."""
    h, pullback, y, numbers = arguments("potential_field", shape, generator, dtype)
    numbers = numbers[:1] if len(numbers) else draw(generator, 1, 4, dtype=dtype)
    rows = numbers.expand(len(y), 4).contiguous()
    energy, field = potential_field(h, pullback, y, numbers)
    assert torch.equal(energy, potential(h, y, rows[:, 0].contiguous())[0])
    assert torch.equal(field, potential_assemble(h, pullback, y, rows[:, 1:].contiguous()))
    for ours, again in zip(potential_field(h, pullback, y, rows), (energy, field), strict=True):
        assert torch.equal(ours, again)


def test_energy_and_field_have_no_derivative(generator):
    inputs = arguments("potential_field", (3, 4), generator)
    inputs[0].requires_grad_()
    with pytest.raises(RuntimeError, match="potential_field has no derivative"):
        potential_field(*inputs)
    with torch.no_grad():
        assert potential_field(*inputs)[1].shape == (3, 4)


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4,)])
def test_wrong_shapes_of_numbers_are_refused(generator, shape):
    *states, _ = arguments("potential_field", (3, 4), generator)
    with pytest.raises(ValueError, match=r"numbers must be \[3, 4\] or \[1, 4\]"):
        potential_field(*states, draw(generator, *shape))


@pytest.mark.parametrize("elements", [1, 5, 16, 37])
def test_gradcheck(generator, elements):
    h, y, p, g = (draw(generator, 3, elements).requires_grad_() for _ in range(4))
    weight, coefficients = draw(generator, 3).requires_grad_(), draw(generator, 3, 3)
    coefficients.requires_grad_()
    for order in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert order(potential, (h, y, weight))
        # each output is used alone, so that the cotangent of the other one is absent
        assert order(lambda *operands: potential(*operands)[0], (h, y, weight))
        assert order(lambda *operands: potential(*operands)[1], (h, y, weight))
        assert order(potential_assemble, (h, p, y, coefficients))
        backward = torch.ops.edmfast.potential_assemble_backward
        assert order(backward, (g, h, p, y, coefficients))


def test_first_gradients_require_grad_and_a_third_derivative_raises(generator):
    h, y = (draw(generator, 3, 4).requires_grad_() for _ in range(2))
    weight = draw(generator, 3).requires_grad_()
    energy, _ = potential(h, y, weight)
    (first,) = torch.autograd.grad(energy.square().sum(), y, create_graph=True)
    assert first.requires_grad
    (second,) = torch.autograd.grad(first.square().sum(), y, create_graph=True)
    assert second.requires_grad
    with pytest.raises(RuntimeError, match="third"):
        torch.autograd.grad(second.sum(), y)


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(generator, name):
    inputs = arguments(name, (3, 5), generator, torch.float32)
    # the others have no derivative
    if name not in ("potential_double_backward", "potential_field"):
        inputs = [tensor.requires_grad_() for tensor in inputs]
    torch.library.opcheck(getattr(torch.ops.edmfast, name).default, tuple(inputs))


def test_compiles_without_a_break(generator):
    h, p, y = (draw(generator, 5, 2, 3, dtype=torch.float32) for _ in range(3))
    weight, c = draw(generator, 5, dtype=torch.float32), draw(generator, 5, 3, dtype=torch.float32)

    def both(h, p, y, weight, c):
        energy, cotangent = potential(h, y, weight)
        return energy, potential_assemble(h, p + cotangent, y, c)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    for ours, wanted in zip(compiled(h, p, y, weight, c), both(h, p, y, weight, c), strict=True):
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize("name", OPERATORS)
def test_bits_depend_neither_on_the_batch_nor_on_the_threads(generator, with_threads, name):
    inputs = arguments(name, (2000, 37), generator, torch.float32)
    with with_threads(1):
        whole = call(name, inputs)
    for threads in (1, 2):
        with with_threads(threads):
            for rows in (slice(0, 1), slice(7, 40), slice(3, 2000)):
                part = call(name, [tensor[rows] for tensor in inputs])
                for ours, wanted in zip(part, whole, strict=True):
                    assert torch.equal(ours, wanted[rows])


@pytest.mark.parametrize("name", OPERATORS)
def test_strides(generator, name):
    inputs = arguments(name, (6, 10), generator)
    strided = [tensor.repeat_interleave(2, dim=-1)[..., ::2] for tensor in inputs]
    assert not strided[0].is_contiguous()
    for ours, wanted in zip(call(name, strided), call(name, inputs), strict=True):
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_are_computed_in_float32(generator, dtype):
    h, p, y = (draw(generator, 4, 9, dtype=dtype) for _ in range(3))
    weight, c = draw(generator, 4, dtype=dtype), draw(generator, 4, 3, dtype=dtype)
    for ours, wanted in zip(
        potential(h, y, weight), potential(h.float(), y.float(), weight.float()), strict=True
    ):
        assert torch.equal(ours, wanted.to(dtype))
    wanted = potential_assemble(h.float(), p.float(), y.float(), c.float())
    assert torch.equal(potential_assemble(h, p, y, c), wanted.to(dtype))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"h": torch.zeros(2, 4)}, ValueError, "of one shape"),
        ({"h": torch.zeros(2, 3).double()}, TypeError, "float64"),
        ({"weight": torch.zeros(3)}, ValueError, r"weight must be \[2\]"),
        ({"weight": torch.zeros(2, dtype=torch.int64)}, TypeError, "int64"),
        ({"h": torch.zeros(2), "y": torch.zeros(2)}, ValueError, r"\[B, \*shape\]"),
    ],
)
def test_errors(change, error, message):
    operands = {"h": torch.zeros(2, 3), "y": torch.zeros(2, 3), "weight": torch.zeros(2)}
    with pytest.raises(error, match=message):
        potential(**operands | change)


def test_errors_of_the_assembly():
    state = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"coefficients must be \[2, 3\]"):
        potential_assemble(state, state, state, torch.zeros(2, 2))
    with pytest.raises(ValueError, match="of one shape"):
        potential_assemble(state, state[:1], state, torch.zeros(2, 3))
