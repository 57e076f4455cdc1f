"""Triton's curvatures and their coefficients equal the plain reference to the rounding of float64."""

from __future__ import annotations

import pytest
import torch

from edmfast.ops.curvature import reference

kernels = pytest.importorskip("edmfast.ops.curvature.triton_ops", exc_type=ImportError)

F64 = torch.float64
LEVELS = torch.tensor([1.3, 0.9], dtype=F64)


def exponents(generator, populations):
    """Return the two ways in which exponents are given: one of each population, or one number."""
    return (torch.rand(populations, generator=generator, dtype=F64) + 0.5, 1.0), (None, 1.7)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 3, 2), (2, 70, 5), (1, 2, 1027), (2, 3, 0), (0, 3, 2)], ids=str
)
def test_curvature(run, generator, shape, dtype):
    products, probes = torch.randn(2, *shape, generator=generator, dtype=F64).to(dtype)
    for powers in exponents(generator, shape[0]):
        ours = run(kernels.curvature, products, probes, *powers)
        wanted = reference.curvature(products, probes, *powers)
        torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (3, 1000), (2, 2049), (0, 0)], ids=str)
def test_matched(run, generator, shape):
    values = torch.randn(shape, generator=generator, dtype=F64) - 0.3
    ancestors = torch.randint(0, max(shape[1], 1), shape, generator=generator, dtype=torch.int32)
    for powers in exponents(generator, shape[0]):
        ours = run(kernels.curvature_matched, values, ancestors, *powers, LEVELS)
        wanted = reference.curvature_matched(values, ancestors, *powers, LEVELS)
        torch.testing.assert_close(ours, wanted, rtol=1e-13, atol=0.0)


def test_bounds_and_ancestors_that_name_no_particle(run):
    values = torch.tensor([[-100.0] * 3, [9.0] * 3, [0.0] * 3, [torch.nan] * 3], dtype=F64)
    ancestors = torch.arange(3, dtype=torch.int32).repeat(4, 1)
    ancestors[2, 1] = -1
    ours = run(kernels.curvature_matched, values, ancestors, None, 1.0, LEVELS)
    kappa = ours[:, 1] / ours[:, 0]
    torch.testing.assert_close(kappa[0].item(), 0.5 * (0.9 / 1.3) ** 2)
    assert kappa[1] == 1
    assert kappa[2:].isnan().all()
