"""At any number of threads, the bits of a sample do not depend on the batch around it."""

from __future__ import annotations

import pytest
import torch

from edmfast import Product, Tempered
from edmfast._internal.batch_invariant import batch_invariant_linear, least_rows
from edmfast.analytic import GaussianMixture, MixtureOfGaussians
from edmfast.models import (
    Denoiser,
    DiT,
    EnergyModel,
    PairwiseMLP,
    ResidualMLP,
    UNet,
)


def weighted(model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def energy(backbone, **options):
    return weighted(EnergyModel(backbone, **options))


def mlp(dim=39, width=64, depth=2):
    return ResidualMLP(dim, width=width, depth=depth, num_classes=2)


def mixture(components, dim, dtype):
    return GaussianMixture(torch.randn(components, dim, dtype=dtype), [1.0] * components)


def full_mixture(components, dim):
    factors = torch.randn(components, dim, dim)
    return MixtureOfGaussians(
        torch.randn(components, dim), factors @ factors.mT / dim + torch.eye(dim)
    )


MODELS = {
    "mlp 39/64": (lambda: energy(mlp()), (39,)),
    "mlp 3/20": (lambda: energy(mlp(3, 20, 1)), (3,)),
    "mlp 39/37": (lambda: energy(mlp(39, 37)), (39,)),
    "mlp float64": (lambda: energy(mlp(40, 128)).double(), (40,)),
    "norm": (lambda: energy(mlp(), potential="norm"), (39,)),
    "denoiser 3/20": (lambda: weighted(Denoiser(mlp(3, 20, 1))), (3,)),
    "denoiser float64": (lambda: weighted(Denoiser(mlp(784, 40, 1))).double(), (784,)),
    "pairs": (lambda: energy(PairwiseMLP(5, 3, width=16, depth=2, num_classes=2)), (5, 3)),
    "unet": (lambda: energy(UNet(1, (16, 16), groups=2, patch=2, num_classes=2)), (1, 8, 8)),
    "dit": (lambda: energy(DiT(1, 8, width=20, depth=1, heads=2, num_classes=2)), (1, 8, 8)),
    "product": (lambda: Product([energy(mlp()), energy(mlp())]), (39,)),
    "tempered": (lambda: Tempered(energy(mlp()), 2.0), (39,)),
    "mixture 40/2": (lambda: mixture(40, 2, torch.float64), (2,)),
    "mixture 9/39": (lambda: mixture(9, 39, torch.float32), (39,)),
    "full mixture 7/39": (lambda: full_mixture(7, 39), (39,)),
    "full mixture 3/2": (lambda: full_mixture(3, 2), (2,)),
}
CUTS = [slice(0, 1), slice(0, 7), slice(0, 33), slice(5, 37), slice(40, 90), slice(0, 112)]


def dtype_of(model):
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, torch.nn.Module) else []
    return tensors[0].dtype if tensors else torch.float32


def evaluated(model, x, sigma, label):
    condition = {} if label is None else {"class_label": label}
    if not hasattr(model, "energy_and_score"):
        return [model(x, sigma, **condition).detach()]
    results = [*model.energy_and_score(x, sigma, **condition)]
    leaf = x.clone().requires_grad_()
    _, score = model.energy_and_score(leaf, sigma, **condition)
    return [each.detach() for each in (*results, *torch.autograd.grad(score.sum(), leaf))]


@pytest.mark.parametrize("threads", [3, 4, 8, 16])
@pytest.mark.parametrize("name", MODELS)
def test_bits_of_a_sample_do_not_depend_on_the_batch(name, threads, with_threads):
    build, shape = MODELS[name]
    torch.manual_seed(0)
    model = build()
    takes_labels = isinstance(model, (EnergyModel, Denoiser))
    x = torch.randn(160, *shape, dtype=dtype_of(model))
    sigmas = torch.rand(160, dtype=x.dtype) + 0.5
    labels = torch.randint(0, 3, (160,)) if takes_labels else None
    with with_threads(threads):
        for each in (False, True):
            sigma, label = (sigmas, labels) if each else (0.7, None)
            whole = evaluated(model, x, sigma, label)
            for cut in CUTS:
                rows = None if label is None else label[cut]
                part = evaluated(model, x[cut], sigmas[cut] if each else 0.7, rows)
                for piece, all_ in zip(part, whole, strict=True):
                    assert torch.equal(piece, all_[cut]), (cut, each)


@pytest.mark.parametrize("threads", [2, 4, 8, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(4, 20), (20, 4), (256, 784), (784, 40), (17, 3)])
def test_bits_of_a_product_do_not_depend_on_the_number_of_rows(sizes, dtype, threads, with_threads):
    generator = torch.Generator().manual_seed(0)
    entries, exits = sizes
    x = torch.randn(1024, entries, dtype=dtype, generator=generator)
    weight = torch.randn(exits, entries, dtype=dtype, generator=generator)
    with with_threads(threads):
        whole = batch_invariant_linear(x, weight)
        # callers pad their rows to a multiple of sixteen, and to at least 32
        for rows in (32, 48, 96, 112, 160, 256):
            assert torch.equal(batch_invariant_linear(x[:rows], weight), whole[:rows]), rows


def test_one_thread_needs_no_more_rows(with_threads):
    with with_threads(1):
        assert least_rows(torch.float32) == least_rows(torch.float64) == 0


def test_tokens_keep_their_place(with_threads):
    x, weight, bias = torch.randn(2, 3, 5), torch.randn(7, 5), torch.randn(7)
    with with_threads(4):
        results = batch_invariant_linear(x, weight, bias)
    torch.testing.assert_close(results, x @ weight.T + bias)
