"""Triton's reversal-matched proposals and weights equal the plain reference to the rounding of float64."""

from __future__ import annotations

import pytest
import torch

from edmfast.ops.reversal import reference

reversal = pytest.importorskip("edmfast.ops.reversal.triton_ops", exc_type=ImportError)

F64 = torch.float64
LEVELS = torch.tensor([1.0, 0.7], dtype=F64)
SHAPES = [(1, 1, 1), (2, 3, 2), (2, 70, 5), (2, 7, 64), (1, 2, 1027)]


def make(models, shape, probes, dtype, generator):
    populations, particles, d = shape
    scores = [*torch.randn(models, *shape, generator=generator, dtype=F64).to(dtype)]
    noise = torch.randn(populations, particles, probes, d, generator=generator, dtype=F64)
    slopes = -0.8 * torch.rand(models, *noise.shape, generator=generator, dtype=F64)
    exponents = torch.rand(populations, models, generator=generator, dtype=F64) + 0.5
    exponents[:, 1:] *= -0.04
    return scores, exponents, LEVELS, None, [*(slopes * noise).to(dtype)], noise.to(dtype)


def close(ours, wanted, d):
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12 * max(d, 1), equal_nan=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("models", "probes"), [(1, 1), (2, 3)])
def test_equals_the_reference(run, generator, models, probes, shape, dtype):
    inputs = make(models, shape, probes, dtype, generator)
    close(run(reversal.reversal, *inputs), reference.reversal(*inputs), shape[2])
    traces = reference.traces_of(*inputs[4:])
    given = (*inputs[:3], traces, [], None)
    close(run(reversal.reversal, *given), reference.reversal(*given), shape[2])


def test_eight_scores(run, generator):
    inputs = make(8, (2, 3, 9), 2, torch.float32, generator)
    close(run(reversal.reversal, *inputs), reference.reversal(*inputs), 9)


def test_one_curvature_serves_all_where_the_product_would_be_too_wide(run, generator):
    scores, *_ = make(2, (1, 3, 4), 1, F64, generator)
    exponents = torch.tensor([[3.0, -2.0]], dtype=F64)
    kappa = torch.tensor([[[0.9, 0.8, 3.0]], [[1.4, 0.5, 3.0]]], dtype=F64)  # P = 1.9, -0.25, 0.67
    given = (exponents, LEVELS, 4 * (kappa - 1) / 0.51, [], None)
    coefficients, log_weights = ours = run(reversal.reversal, scores, *given)
    close(ours, reference.reversal(scores, *given), 4)
    assert torch.isfinite(log_weights).all()
    torch.testing.assert_close(coefficients[0, 1, 0].item(), 0.51 * 3)


def test_nan_stays_in_its_particle(run, generator):
    inputs = make(2, (2, 5, 3), 2, torch.float32, generator)
    inputs[0][1][1, 2, 0] = inputs[4][0][0, 3, 1, 2] = torch.nan
    wanted = reference.reversal(*inputs)
    assert wanted[1].isnan().nonzero().tolist() == [[0, 3], [1, 2]]
    close(run(reversal.reversal, *inputs), wanted, 3)


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0)])
def test_empty(run, generator, shape):
    inputs = make(2, shape, 2, torch.float32, generator)
    close(run(reversal.reversal, *inputs), reference.reversal(*inputs), 0)


def test_any_strides(run, generator):
    scores, a, levels, _, products, probes = make(2, (2, 5, 8), 2, torch.float32, generator)
    spread = [score.repeat_interleave(2, dim=-1)[..., ::2] for score in scores]
    turned = [product.transpose(1, 2).contiguous().transpose(1, 2) for product in products]
    assert not turned[0].is_contiguous()
    wanted = reference.reversal(scores, a, levels, None, products, probes)
    ours = run(reversal.reversal, spread, a.T.contiguous().T, levels, None, turned, probes)
    close(ours, wanted, 8)
