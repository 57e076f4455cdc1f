"""Triton perceptrons agree with the plain reference in float64, and write every output.

The cases have sizes that need padding, K models, numbers that rows share or not, half precisions, and networks
that the kernels leave to the reference.
"""

from __future__ import annotations

import pytest
import torch

from edmfast.ops.mlp_potential import reference
from tests.ops.triton.as_on_a_device import as_on_a_device

kernels = pytest.importorskip("edmfast.ops.mlp_potential.triton_ops", exc_type=ImportError)

DOUBLE = torch.float64
# each row is: models, rows, numbers of a state, width, layers, shared numbers, shared shifts
SIZES = [
    (1, 5, 2, 16, 2, True, True),
    (2, 37, 3, 20, 3, False, False),
    (1, 1, 17, 37, 1, True, False),
    (3, 33, 5, 32, 0, False, True),
    (1, 33, 2, 32, 2, False, False),
]


def draw(size, generator, dtype=torch.float32):
    """Return x, coefficients, and lists of shifts and weights; the weights have the dtype."""
    models, rows, elements, width, depth, shared_numbers, shared_shifts = size

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=DOUBLE)

    def each(*shape, count=models):
        scale = max(1, shape[-1]) ** -0.5
        return [(scale * normal(*shape)).to(dtype) for _ in range(count)]

    x, numbers = normal(rows, elements), normal(models, 1 if shared_numbers else rows, 4)
    return [
        x.float(),
        numbers.float(),
        each(1 if shared_shifts else rows, depth * width),
        each(width, elements),
        each(width),
        each(width, width, count=models * depth),
        each(elements, width),
        each(elements),
    ]


def doubled(operands):
    return [
        [t.double() for t in part] if isinstance(part, list) else part.double() for part in operands
    ]


def poisoned(name, *inputs):
    with as_on_a_device():
        return getattr(kernels, name)(*inputs)


def both(run, size, generator, dtype=torch.float32, inputs=True, weights=True):
    """Return [(our output, the output in float64)] of forward and backward."""
    operands = draw(size, generator, dtype)
    models, rows, elements = size[:3]
    e, v = (torch.randn(models, rows, *s, generator=generator) for s in ((), (elements,)))
    nothing, wide = torch.empty(0), doubled(operands)
    results = run(poisoned, "mlp_potential", *operands, True)[:2]
    truth = reference.mlp_potential(*wide, True)[:2]
    slopes = run(poisoned, "mlp_potential_backward", e, v, *operands, nothing, inputs, weights)
    exact = reference.mlp_potential_backward(
        e.double(), v.double(), *wide, nothing, inputs, weights
    )
    return [*zip(results, truth, strict=True), *zip(slopes, exact, strict=True)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_reference(run, generator, size):
    for ours, truth in both(run, size, generator):
        assert ours.shape == truth.shape
        assert ours.dtype == torch.float32
        atol = 2e-5 * max(1.0, truth.abs().max().item()) if truth.numel() else 0
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=atol)


def test_programs_that_take_several_blocks(run, generator):
    size = (2, 300, 3, 20, 2, False, False)
    constants, _ = kernels.configuration("forward", torch.float32, 3, 20, 2)
    assert size[1] > 2 * constants["ROWS"] * kernels._programs(torch.empty(0))
    for ours, truth in both(run, size, generator):
        atol = 2e-5 * max(1.0, truth.abs().max().item())
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=atol)


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("shifts", [False, True])
def test_the_forward_kernel_has_tiles_for_what_rows_share(generator, monkeypatch, numbers, shifts):
    launched = {}

    class Kernel:
        def __getitem__(self, grid):
            return lambda *_, **constants: launched.update(constants)

    monkeypatch.setattr(kernels, "forward_kernel", Kernel())
    kernels.mlp_potential(*draw((1, 5, 2, 32, 2, numbers, shifts), generator), True)
    shared = numbers and shifts
    constants, options = kernels.configuration("forward", torch.float32, 2, 32, 2, shared=shared)
    assert launched == constants | options | {"SHARED_NUMBERS": numbers, "SHARED_SHIFTS": shifts}
    assert launched["CHUNK"] == (32 if shared else 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_no_worse_than_the_formulas_in_halves(run, generator, dtype):
    size, nothing = (2, 37, 3, 20, 3, False, False), torch.empty(0)
    operands, (models, rows, elements) = draw(size, generator, dtype), size[:3]
    e, v = (torch.randn(models, rows, *s, generator=generator) for s in ((), (elements,)))
    results = [
        *run(poisoned, "mlp_potential", *operands, True)[:2],
        *run(poisoned, "mlp_potential_backward", e, v, *operands, nothing, True, True),
    ]

    def formulas(convert):
        lists = [
            [*map(convert, part)] if isinstance(part, list) else convert(part) for part in operands
        ]
        last = nothing, True, True
        slopes = reference.mlp_potential_backward(convert(e), convert(v), *lists, *last)
        return [*reference.mlp_potential(*lists, True)[:2], *slopes]

    exact, rounded = formulas(torch.Tensor.double), formulas(lambda t: t.to(dtype))
    for ours, half, truth in zip(results, rounded, exact, strict=True):
        assert (ours - truth).abs().max() <= (half - truth).abs().max()


@pytest.mark.parametrize("size", [SIZES[0], SIZES[1]], ids=str)
@pytest.mark.parametrize("inputs", [False, True])
def test_what_is_not_asked_for(run, generator, size, inputs):
    for ours, truth in both(run, size, generator, inputs=inputs, weights=not inputs):
        assert ours.shape == truth.shape
        atol = 2e-5 * max(1.0, truth.abs().max().item()) if truth.numel() else 0
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=atol)


def probe_in_parts(*inputs):
    rows, kernels._PROBE_ROWS = kernels._PROBE_ROWS, 16
    try:
        return kernels.mlp_potential_backward(*inputs)
    finally:
        kernels._PROBE_ROWS = rows


@pytest.mark.parametrize("size", [SIZES[0], SIZES[1]], ids=str)
def test_a_probe_of_many_rows_goes_in_parts(run, generator, size):
    operands = draw(size, generator)
    e, v = (torch.randn(*size[:2], *s, generator=generator) for s in ((), (size[2],)))
    arguments = e, v, *operands, torch.empty(0), True, False
    whole = run(kernels.mlp_potential_backward, *arguments)
    for ours, wanted in zip(run(probe_in_parts, *arguments), whole, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-6)


def test_what_there_are_no_tiles_for(run, generator):
    for size in [(1, 3, 2, 8, 9, True, True), (1, 2, 260, 8, 1, True, True), (2, 0, *SIZES[0][2:])]:
        for ours, truth in both(run, size, generator):
            torch.testing.assert_close(ours.double(), truth, rtol=1e-4, atol=1e-4)
    assert not kernels.fits(DOUBLE, 2, 16, 1)
    assert not kernels.fits(torch.float32, 2, 300, 1)
