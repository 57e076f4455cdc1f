"""Scores and traces: exact traces, probes, sums of models, conditions, errors, and bits within a batch."""

import pytest
import torch
from torch import nn

from edmfast import Conditioned, Denoiser, EnergyModel, Guided, Product, Tempered, analytic, models
from edmfast.targets import Renamed
from edmfast.targets.traces import (
    exact_trace,
    has_exact_trace,
    score_and_products,
    score_and_trace,
)

SIGMA = 0.7


class Gaussian(nn.Module):
    """A denoiser of N(mean, diag(variances)), with its exact trace."""

    def __init__(self, variances, shift=0.0):
        super().__init__()
        self.variances, self.shift = torch.tensor(variances, dtype=torch.float64), shift

    def forward(self, x, sigma, label=0):
        v, levels = self.variances.to(x.dtype), sigma[:, None]
        mean = self.shift + 0.1 * torch.as_tensor(label, dtype=x.dtype).reshape(-1, 1)
        return mean + v / (v + levels**2) * (x - mean)

    def jacobian_trace(self, x, sigma, label=0):
        v = self.variances.to(x.dtype)
        return (v / (v + sigma[:, None] ** 2)).sum(1)


def states(rows, dim, dtype=torch.float64):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(1), dtype=dtype)


def signs(rows, count, *shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(rows, count, *shape, generator=generator, dtype=dtype).sign()


def unit_probes(x):
    """Return d probes sqrt(d) e_i, whose mean of v·H v is the exact trace."""
    d = x[0].numel()
    eye = torch.eye(d, dtype=x.dtype) * d**0.5
    return eye.reshape(1, d, *x.shape[1:]).expand(len(x), -1, *x.shape[1:])


def mlp(dim=3, **options):
    torch.manual_seed(0)
    backbone = models.ResidualMLP(dim, width=8, depth=2, **options)
    nn.init.normal_(backbone.output.weight, std=0.3)
    return backbone


def test_the_trace_of_a_gaussian_is_that_of_its_precision():
    model, x = Gaussian([0.3, 1.0, 2.0]), states(5, 3)
    score, trace = score_and_trace(model, x, SIGMA)
    variances = model.variances + SIGMA**2
    torch.testing.assert_close(score, -x / variances)
    torch.testing.assert_close(trace, -(1 / variances).sum().expand(5))
    assert trace.dtype == torch.float64
    levels = torch.linspace(0.2, 3, 5, dtype=torch.float64)
    expected = -(1 / (model.variances + levels[:, None] ** 2)).sum(1)
    torch.testing.assert_close(exact_trace(model, x, levels), expected)
    # With a diagonal Hessian every sign gives the exact trace.
    torch.testing.assert_close(score_and_trace(model, x, levels, signs(5, 1, 3))[1], expected)


def test_products_are_those_of_the_jacobian():
    mixture = analytic.GaussianMixture([[-1.0, 0.5, 0.0], [1.0, 0.0, 0.3]], [0.4, 0.7])
    for model in (mixture, Denoiser(mlp()).double(), EnergyModel(mlp()).double()):
        x, v = states(4, 3), signs(4, 2, 3)
        score, products = score_and_products(model, x, SIGMA, v)

        def field(row, model=model):
            denoised = model(row[None], SIGMA)[0]
            return (denoised - row) / SIGMA**2

        jacobians = torch.stack([torch.autograd.functional.jacobian(field, row) for row in x])
        torch.testing.assert_close(score, (model(x, SIGMA) - x) / SIGMA**2)
        torch.testing.assert_close(products, torch.einsum("bij,bki->bkj", jacobians, v))
        assert not score.requires_grad
        assert not products.requires_grad
        trace = score_and_trace(model, x, SIGMA, unit_probes(x))[1]
        torch.testing.assert_close(trace, jacobians.diagonal(dim1=1, dim2=2).sum(1))


@pytest.mark.parametrize("exact", [True, False])
def test_a_sum_has_the_sum_of_the_traces(exact):
    a, b = Gaussian([0.3, 1.0, 2.0]), Gaussian([0.5, 0.5, 0.1], shift=1.0)
    x = states(4, 3)
    probes = None if exact else unit_probes(x)
    single = [score_and_trace(model, x, SIGMA)[1] for model in (a, b)]
    powers = torch.tensor([0.5, 2.0])
    for target, expected in [
        (Tempered(a, 2.0), 2 * single[0]),
        (Product([a, b], [1.5, -0.5]), 1.5 * single[0] - 0.5 * single[1]),
        (Guided(Tempered(a, 0.5), b, 3.0), -single[0] + 3 * single[1]),
        (Tempered(a, powers), powers.double().repeat_interleave(2) * single[0]),
        (Conditioned(Product([a, b]), label=2), single[0] + single[1]),
        (Renamed(Product([a, b]), kind="label"), single[0] + single[1]),
        (Conditioned(a, label=torch.arange(4)), single[0]),
    ]:
        assert has_exact_trace(target)
        score, trace = score_and_trace(target, x, SIGMA, probes)
        torch.testing.assert_close(trace, expected)
        torch.testing.assert_close(
            score, torch.as_tensor(score_of_parts(target, x)), rtol=1e-9, atol=1e-9
        )
    assert not has_exact_trace(Product([a, Denoiser(mlp())]))


def score_of_parts(target, x):
    exponent = target.exponent
    if isinstance(exponent, torch.Tensor):
        exponent = exponent.repeat_interleave(len(x) // len(exponent))[:, None]
    return exponent * (target(x, SIGMA) - x) / SIGMA**2


def test_conditions_reach_the_model():
    model, x = EnergyModel(mlp(num_classes=3)).double(), states(4, 3)
    labels, v = torch.tensor([0, 1, 2, 0]), unit_probes(x)
    expected = score_and_trace(model, x, SIGMA, v, class_label=labels)
    for bound, condition in [
        (Conditioned(model, class_label=labels), {}),
        (Renamed(model, kind="class_label"), {"kind": labels}),
    ]:
        for got, want in zip(
            score_and_trace(bound, x, SIGMA, v, **condition), expected, strict=True
        ):
            assert torch.equal(got, want)
    other = score_and_trace(Conditioned(model, class_label=1), x, SIGMA, v)[1]
    assert not torch.allclose(other, expected[1])


def test_a_row_has_its_bits_in_any_batch():
    torch.manual_seed(0)
    unet = models.UNet(in_channels=1, channels=(4, 4), groups=2)
    nn.init.normal_(unet.output.weight, std=0.1)
    cases = [(Denoiser(mlp(17)), (17,)), (EnergyModel(mlp(17)), (17,)), (Denoiser(unet), (1, 4, 4))]
    for model, shape in cases:
        x = torch.randn(70, *shape, generator=torch.Generator().manual_seed(3))
        v = signs(70, 2, *shape, dtype=torch.float32)
        score, trace = score_and_trace(model, x, SIGMA, v)
        for rows in (slice(3, 4), slice(1, 41)):
            part = score_and_trace(model, x[rows], SIGMA, v[rows])
            assert torch.equal(part[0], score[rows])
            assert torch.equal(part[1], trace[rows])


def test_a_result_without_a_graph_is_refused_with_its_cures():
    x, v = states(2, 3), signs(2, 1, 3)

    @torch.no_grad()
    def detached(x, sigma):
        return x / 2

    def detached_inside(x, sigma):
        return nn.Parameter(torch.ones(3, dtype=x.dtype)) * x.detach()

    for model in (
        detached,
        detached_inside,
        Tempered(detached, 2.0),
        Product([Gaussian([1.0] * 3), detached]),
    ):
        with pytest.raises(ValueError, match=r"jacobian_trace.*weights='score'"):
            score_and_trace(model, x, SIGMA, v)
    with pytest.raises(ValueError, match=r"has no method jacobian_trace.*pass probes"):
        score_and_trace(lambda x, sigma: x / 2, x, SIGMA)


def test_wrong_shapes_are_refused():
    model, x = Gaussian([1.0, 1.0]), states(3, 2)
    for probes in (signs(3, 2), signs(2, 1, 2), signs(3, 0, 2)):
        with pytest.raises(ValueError, match=r"probes must be \[B, K, \*shape\]"):
            score_and_trace(model, x, SIGMA, probes)
    model.jacobian_trace = lambda x, sigma: x
    with pytest.raises(ValueError, match="one number for each row"):
        score_and_trace(model, x, SIGMA)


def test_a_foreign_model_may_change_its_arguments():
    model, x = Gaussian([1.0, 2.0]), states(3, 2)
    before = x.clone()
    exact = model.jacobian_trace

    def careless(x, sigma):
        trace = exact(x, sigma)
        x.zero_()
        sigma.zero_()
        return trace

    model.jacobian_trace = careless
    levels = torch.full((3,), SIGMA, dtype=torch.float64)
    trace = exact_trace(model, x, levels)
    assert torch.equal(x, before)
    torch.testing.assert_close(trace, -(1 / (model.variances + SIGMA**2)).sum().expand(3))
