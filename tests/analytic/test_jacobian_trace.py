"""jacobian_trace is the trace of the Jacobian of the denoised states, which autograd computes in float64."""

import pytest
import torch

from edmfast.analytic import GaussianMixture, ManyWell, MixtureOfGaussians
from tests.mixtures import F64, mixture


def gaussians(components, dim, shared):
    draw = torch.Generator().manual_seed(0)
    means = torch.randn(components, dim, generator=draw, dtype=F64)
    stds = 0.1 + torch.rand(components, generator=draw, dtype=F64)
    return GaussianMixture(means, stds[:1].expand(components) if shared else stds)


MODELS = {
    "one gaussian": (gaussians(1, 3, True), 3),
    "few gaussians": (gaussians(3, 2, False), 2),
    "gaussians": (gaussians(30, 16, False), 16),
    "kernel density": (gaussians(90, 9, True), 9),
    "far and narrow": (GaussianMixture([[100.0, 0.0], [-100.0, 50.0]], [0.01, 0.02]), 2),
    "one full": (mixture(1, 3), 3),
    "few full": (mixture(3, 2), 2),
    "full": (mixture(6, 16), 16),
    "full, far and narrow": (
        MixtureOfGaussians([[100.0, 0.0], [-100.0, 50.0]], [[[1e-4, 0], [0, 4e-4]]] * 2),
        2,
    ),
    "many wells": (ManyWell(4), 4),
}


def points(model):
    sigma = torch.logspace(-2.5, 1.5, 20, dtype=F64)
    return torch.cat([model.sample(1, float(s), seed=i) for i, s in enumerate(sigma)]), sigma


@pytest.mark.parametrize("name", MODELS)
def test_trace_is_that_of_the_jacobian(name):
    model, dim = MODELS[name]
    x, sigma = points(model)
    expected = [
        torch.autograd.functional.jacobian(lambda y, s=s: model(y[None], s)[0], row).trace()
        for row, s in zip(x, sigma, strict=True)
    ]
    trace = model.jacobian_trace(x, sigma)
    torch.testing.assert_close(trace, torch.stack(expected), rtol=1e-9, atol=1e-9)
    single = model.jacobian_trace(x.float(), sigma.float())
    assert single.dtype == torch.float32
    assert (single - trace).abs().max() < 1e-5 * dim
    shaped = model.jacobian_trace(x.view(len(x), 1, dim), sigma)
    assert torch.equal(shaped, trace)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_bits_of_a_row_do_not_depend_on_the_batch(name, dtype):
    model, _ = MODELS[name]
    x = model.sample(150, 0.3, seed=1).to(dtype)
    whole = model.jacobian_trace(x, 0.3)
    for rows in (1, 2, 7, 31, 33, 101):
        assert torch.equal(model.jacobian_trace(x[1 : 1 + rows], 0.3), whole[1 : 1 + rows])


def test_without_noise_the_trace_is_the_dimension():
    for model, dim in (MODELS["gaussians"], MODELS["full"], MODELS["many wells"]):
        trace = model.jacobian_trace(model.sample(5, seed=2), 0.0)
        torch.testing.assert_close(trace, torch.full((5,), float(dim), dtype=F64))
