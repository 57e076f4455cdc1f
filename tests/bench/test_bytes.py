"""Test that the bytes of a case are those of the inputs its job reads and the outputs it writes."""

from __future__ import annotations

import pytest
import torch

from bench.cases import derivative_orders as bench_orders
from bench.cases import norms as bench_norms
from bench.cases import potential as bench_potential
from bench.cases import systematic_resample as bench_systematic_resample
from bench.harness.inputs import size_in_bytes
from bench.harness.registry import DIRECTIONS

CPU = torch.device("cpu")


def inputs_read(case, inputs):
    """Return the inputs that a job in the case's direction reads."""
    order = DIRECTIONS.index(case.direction)
    if case in bench_orders.CASES:
        return inputs[: order + 1]
    if case in bench_norms.CASES:
        x, grad, _, scale, shift, *_ = inputs
        return [(x, scale, shift), (x, grad, scale, shift), inputs][order]
    return inputs


@pytest.mark.parametrize(
    "case",
    [
        *bench_orders.CASES,
        *bench_potential.CASES,
        *(case for case in bench_norms.CASES if "cpu" in case.devices),
        bench_systematic_resample.CASES[0],
    ],
    ids=lambda case: case.name,
)
def test_bytes(case):
    inputs = case.make_inputs(case.shape, case.dtype, CPU)
    read = size_in_bytes(inputs_read(case, inputs))
    assert case.bytes == read + size_in_bytes(case.ours(*inputs))


def test_bytes_of_large_populations():
    """These cases are too large to draw here: log-weights and a uniform go in, ancestors come out."""
    for case in bench_systematic_resample.CASES:
        populations, particles = case.shape
        assert case.bytes == 8 * populations * (particles + 1)
