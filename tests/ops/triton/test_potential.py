"""Triton potentials agree with the plain reference, for absent cotangents and any strides; no output is missed."""

from __future__ import annotations

import pytest
import torch

from edmfast.ops.potential import reference

kernels = pytest.importorskip("edmfast.ops.potential.triton_ops", exc_type=ImportError)

SHAPES = [(1, 1), (5, 2), (70, 5), (3, 64), (2, 1027), (1, 2500)]
STATES = {
    "potential": ("h", "y", "weight"),
    "potential_backward": ("e", "v", "h", "y", "weight"),
    "potential_double_backward": ("a", "b", "c", "e", "v", "h", "y", "weight"),
    "potential_assemble": ("h", "v", "y", "coefficients"),
    "potential_field": ("h", "v", "y", "numbers"),
    "potential_assemble_backward": ("a", "h", "v", "y", "coefficients"),
}
CLOSE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
}


def arguments(name, shape, dtype, generator):
    def draw(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    numbers = dict.fromkeys("ce", shape[:1]) | {"weight": shape[:1], "coefficients": (shape[0], 3)}
    numbers["numbers"] = (shape[0], 4)
    return [draw(*numbers.get(argument, shape)) for argument in STATES[name]]


def poisoned(name, *inputs):
    """Make the call with allocations that hold NaN, in the process that runs it."""
    new_empty = torch.Tensor.new_empty
    torch.Tensor.new_empty = lambda self, *a, **k: new_empty(self, *a, **k).fill_(torch.nan)
    try:
        return getattr(kernels, name)(*inputs)
    finally:
        torch.Tensor.new_empty = new_empty


def compare(run, name, inputs):
    ours, truth = run(poisoned, name, *inputs), getattr(reference, name)(*inputs)
    if isinstance(truth, torch.Tensor):
        ours, truth = (ours,), (truth,)
    for a, b in zip(ours, truth, strict=True):
        torch.testing.assert_close(a, b, **CLOSE[a.dtype])


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("dtype", CLOSE)
def test_equals_the_reference(run, generator, name, dtype):
    for shape in SHAPES:
        compare(run, name, arguments(name, shape, dtype, generator))


@pytest.mark.parametrize("name", ["potential_backward", "potential_double_backward"])
@pytest.mark.parametrize("absent", [("e",), ("v",)])
def test_absent_cotangents(run, generator, name, absent):
    inputs = arguments(name, (5, 37), torch.float32, generator)
    for argument in absent:
        inputs[STATES[name].index(argument)] = None
    compare(run, name, inputs)


@pytest.mark.parametrize("name", STATES)
def test_empty_and_strided(run, generator, name):
    for shape in [(0, 3), (3, 0)]:
        compare(run, name, arguments(name, shape, torch.float32, generator))
    inputs = arguments(name, (6, 10), torch.float32, generator)
    strided = [t.repeat_interleave(2, dim=-1)[..., ::2] for t in inputs]
    assert not strided[0].is_contiguous()
    compare(run, name, strided)


def test_one_row_of_numbers_serves_all_rows(run, generator):
    *states, numbers = arguments("potential_field", (70, 5), torch.float32, generator)
    compare(run, "potential_field", (*states, numbers[:1].clone()))
