"""Curvatures by probes and the coefficients that follow them: their formula, bits, strides, bad inputs and NaN."""

from __future__ import annotations

import pytest
import torch

from edmfast.ops import curvature, curvature_matched
from edmfast.ops.curvature import reference

F64 = torch.float64
LEVELS = torch.tensor([1.3, 0.9], dtype=F64)
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def make(generator, shape, dtype):
    tensors = torch.randn(2, *shape, generator=generator, dtype=F64).to(dtype)
    return tensors[0], tensors[1].sign()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (2, 70, 16), (2, 3, 1030), (1, 2, 7, 9)])
def test_curvature_equals_the_sum_in_float64(generator, poisoned, shape, dtype):
    products, probes = make(generator, shape, dtype)
    total = (products.double() * probes.double()).flatten(2).sum(2)
    elements = total.new_tensor(shape[2:]).prod()
    for exponent in (1.5, torch.rand(shape[0], generator=generator, dtype=F64) + 0.5):
        factor = exponent if isinstance(exponent, float) else exponent[:, None]
        ours = curvature(products, probes, exponent)
        assert ours.dtype == F64
        torch.testing.assert_close(ours, total / (elements * factor), rtol=1e-12, atol=1e-13)


def test_curvature_loses_no_digits_where_terms_cancel():
    """A float32 sum of these terms has an error of one part in ten."""
    products = torch.tensor([[[1e8, 1.0, -1e8, 3e-4]]])
    ours = curvature(products, torch.ones_like(products))
    assert ours.item() == pytest.approx((1.0 + float(products[0, 0, 3])) / 4, rel=1e-15)


def test_curvature_of_a_particle_has_its_bits_in_any_company(generator, compiled, with_threads):
    products, probes = make(generator, (3, 200, 37), torch.float32)
    whole = curvature(products, probes)
    for threads in (1, 4):
        with with_threads(threads):
            assert torch.equal(curvature(products, probes), whole)
    assert torch.equal(curvature(products[2:, 17:18], probes[2:, 17:18]), whole[2:, 17:18])


def plain(values, ancestors, levels, exponent):
    """Write the formula with a mean that folds halves of the row."""
    rows = torch.gather(values, 1, ancestors.long())
    while rows.shape[1] > 1:
        half = rows.shape[1] // 2
        folded = rows[:, :half] + rows[:, half : 2 * half]
        rows = torch.cat([folded, rows[:, 2 * half :]], 1)
    mean = rows[:, 0] / values.shape[1]
    s, u = levels.tolist()
    tau2, lowest = s * s - u * u, 0.5 * ((u / s) * (u / s))
    kappa = (1 + tau2 * mean).clamp(lowest, 1.0)
    v_l = torch.ones_like(kappa) * tau2 / exponent
    return torch.stack([v_l, kappa * v_l, v_l], 1)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 3), (2, 7), (5, 1000), (1, 8193), (3, 4095)])
def test_matched_coefficients_have_the_bits_of_the_formula(generator, poisoned, shape):
    values = torch.randn(shape, generator=generator, dtype=F64) - 0.3
    ancestors = torch.randint(0, shape[1], shape, generator=generator, dtype=torch.int32)
    for exponent in (1.5, torch.rand(shape[0], generator=generator, dtype=F64) + 0.5):
        ours = curvature_matched(values, ancestors, LEVELS, exponent)
        assert torch.equal(ours, plain(values, ancestors, LEVELS, exponent))


@pytest.mark.parametrize(
    ("value", "kappa"), [(0.0, 1.0), (5.0, 1.0), (-100.0, 0.5 * (0.9 / 1.3) ** 2), (-0.4, 0.648)]
)
def test_kappa_stays_within_its_bounds(value, kappa):
    values, ancestors = torch.full((1, 3), value, dtype=F64), torch.zeros(1, 3, dtype=torch.int32)
    drift, v_m, v_l = curvature_matched(values, ancestors, LEVELS, 2.0)[0].tolist()
    assert drift == v_l == pytest.approx(0.88 / 2)
    assert v_m / v_l == pytest.approx(kappa)


def test_the_mean_is_over_the_ancestors():
    values = torch.tensor([[-0.8, 0.0, 0.0, 0.0]], dtype=F64)
    ancestors = torch.tensor([[0, 0, 3, 3]], dtype=torch.int32)
    (_, v_m, v_l), *_ = curvature_matched(values, ancestors, LEVELS).tolist()
    assert v_m / v_l == pytest.approx(1 - 0.88 * 0.4)


def test_nan_stays_in_its_population(generator):
    values = torch.randn(3, 5, generator=generator, dtype=F64)
    values[1, 2] = torch.nan
    ancestors = torch.arange(5, dtype=torch.int32).repeat(3, 1)
    ours = curvature_matched(values, ancestors, LEVELS)
    assert ours.isnan().nonzero().tolist() == [[1, 1]]
    products, probes = make(generator, (2, 3, 20), torch.float32)
    products[1, 2, 7] = torch.nan
    assert curvature(products, probes).isnan().nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize("value", [-1, 5, 2**31 - 1, -(2**31)])
def test_ancestors_that_name_no_particle_are_refused(value):
    ancestors = torch.zeros(2, 5, dtype=torch.int32)
    ancestors[1, 3] = value
    with pytest.raises(RuntimeError, match=r"ancestors must lie in|out of bounds"):
        curvature_matched(torch.zeros(2, 5, dtype=F64), ancestors, LEVELS)


def test_strides_and_empty_shapes(generator):
    products, probes = make(generator, (2, 6, 8), torch.float32)
    spread = products.repeat_interleave(2, dim=2)[..., ::2]
    turned = probes.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(curvature(spread, turned), curvature(products, probes))
    values = torch.randn(6, 2, generator=generator, dtype=F64).T
    ancestors = torch.zeros(1, 1, dtype=torch.int32).expand(2, 6)
    wanted = curvature_matched(values.contiguous(), ancestors.contiguous(), LEVELS)
    assert torch.equal(curvature_matched(values, ancestors, LEVELS), wanted)
    for shape in [(0, 3, 2), (2, 0, 2), (2, 3, 0)]:
        assert (
            curvature(torch.ones(shape), torch.ones(shape)).tolist()
            == torch.zeros(shape[:2]).tolist()
        )
    nothing = torch.zeros(0, 0, dtype=F64)
    assert curvature_matched(nothing, nothing.int(), LEVELS).shape == (0, 3)


X, C, A = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=F64), torch.zeros(2, 3, dtype=torch.int32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: curvature(X.int(), X.int()), TypeError, "float16.*int32"),
        (lambda: curvature(X, X.double()), TypeError, "one dtype.*float64"),
        (lambda: curvature(X, X[:, :1]), ValueError, "one shape"),
        (lambda: curvature(X[0, 0], X[0, 0]), ValueError, r"\[P, N, \*shape\]"),
        (lambda: curvature(X, X, torch.ones(2)), TypeError, "exponent must be float64"),
        (lambda: curvature(X, X, torch.ones(3, dtype=F64)), ValueError, r"exponent.*\[P\]"),
        (lambda: curvature(X, X, "1"), TypeError, "exponent"),
        (lambda: curvature(X, X.to("meta")), ValueError, "one device"),
        (lambda: curvature_matched(C.float(), A, LEVELS), TypeError, "curvature must be"),
        (lambda: curvature_matched(C, A.long(), LEVELS), TypeError, "ancestors must be"),
        (lambda: curvature_matched(C, A, LEVELS.float()), TypeError, "levels must be"),
        (lambda: curvature_matched(C, A[:1], LEVELS), ValueError, "one shape"),
        (lambda: curvature_matched(C[:, :0], A[:, :0], LEVELS), ValueError, "N >= 1"),
        (lambda: curvature_matched(C, A, LEVELS[:1]), ValueError, "levels"),
        (lambda: curvature_matched(C, A.to("meta"), LEVELS), ValueError, "one device"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_opcheck():
    operators, powers = torch.ops.edmfast, torch.ones(2, dtype=F64)
    for exponents in (None, powers):
        torch.library.opcheck(operators.curvature.default, (X, X, exponents, 1.5))
        torch.library.opcheck(operators.curvature_matched.default, (C, A, exponents, 1.5, LEVELS))


def test_compiles_without_a_break():
    def run(products, probes, ancestors, levels):
        return curvature_matched(curvature(products, probes, 2.0), ancestors, levels, 2.0)

    inputs = torch.randn(2, 3, 4), torch.ones(2, 3, 4), A, LEVELS
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), run(*inputs))


def test_the_reference_divides_by_all_elements():
    assert reference.curvature(X + 1, X + 1, None, 2.0).tolist() == [[0.5] * 3] * 2
