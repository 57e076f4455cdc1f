"""The wrappers have the numbers, the names and the arguments of the installed k-diffusion."""

from __future__ import annotations

import copy
import inspect
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import edmfast.k_diffusion as K
from tests.installed import k_diffusion

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
PRODUCTS = (1 - BETAS).cumprod(0).float()
KINDS = (
    "eps",
    "eps quantised",
    "openai",
    "openai learned",
    "compvis",
    "v",
    "discrete v",
    "compvis v",
)


class Network(nn.Module):
    """A small convolution that depends on its time and its condition."""

    def __init__(self, channels=3):
        super().__init__()
        torch.manual_seed(2)
        self.layer = nn.Conv2d(3, channels, 3, padding=1)
        self.alphas_cumprod = PRODUCTS

    def forward(self, y, t, cond=None):
        shift = 0 if cond is None else cond[:, None, None, None]
        return self.layer(y) + (t.to(y.dtype) / 300).sin()[:, None, None, None] + shift

    apply_model = forward


@pytest.fixture(scope="module")
def theirs():
    return k_diffusion("external")


def wrapped(external, kind):
    if kind.startswith("eps"):
        return external.DiscreteEpsDDPMDenoiser(Network(), PRODUCTS, kind.endswith("quantised"))
    if kind.startswith("openai"):
        learned = kind.endswith("learned")
        diffusion = SimpleNamespace(alphas_cumprod=PRODUCTS.double().numpy())
        return external.OpenAIDenoiser(
            Network(6 if learned else 3), diffusion, has_learned_sigmas=learned
        )
    builders = {
        "compvis": lambda: external.CompVisDenoiser(Network()),
        "v": lambda: external.VDenoiser(Network()),
        "discrete v": lambda: external.DiscreteVDDPMDenoiser(Network(), PRODUCTS, quantize=False),
        "compvis v": lambda: external.CompVisVDenoiser(Network(), quantize=True),
    }
    return builders[kind]()


@pytest.mark.parametrize("kind", KINDS)
def test_denoised_states_and_losses_agree(theirs, kind):
    a, b = wrapped(K.external, kind), wrapped(theirs, kind)
    generator = torch.Generator().manual_seed(3)
    x, noise = (torch.randn(7, 3, 5, 5, generator=generator) for _ in range(2))
    sigma = torch.tensor([0.0, 0.02, 0.1, 0.77, 1.0, 6.0, 20.0])
    condition = {"cond": torch.linspace(-1, 1, 7)}
    torch.testing.assert_close(
        a(x, sigma, **condition), b(x, sigma, **condition), rtol=2e-5, atol=2e-5
    )
    losses = (model.loss(x, noise, sigma[1:2].expand(7), **condition) for model in (a, b))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.get_scalings(sigma), b.get_scalings(sigma))
    assert a.state_dict().keys() == b.state_dict().keys()
    a.load_state_dict(copy.deepcopy(b.state_dict()))


@pytest.mark.parametrize("weighting", ["karras", "soft-min-snr", "snr"])
def test_the_preconditioned_denoiser_agrees(weighting):
    layers = k_diffusion("layers")
    generator = torch.Generator().manual_seed(3)
    x, noise = (torch.randn(4, 3, 5, 5, generator=generator) for _ in range(2))
    sigma, condition = torch.tensor([0.02, 0.5, 2.0, 30.0]), {"cond": torch.linspace(-1, 1, 4)}
    models = [
        source(Network(), sigma_data=0.6, weighting=weighting)
        for source in (K.Denoiser, layers.Denoiser)
    ]
    torch.testing.assert_close(*(model(x, sigma, **condition) for model in models))
    losses = (model.loss(x, noise, sigma, **condition) for model in models)
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)
    assert arguments(K.layers.Denoiser) == arguments(layers.Denoiser)


@pytest.mark.parametrize("quantize", [True, False])
def test_times_and_levels_agree(theirs, quantize):
    a = K.external.DiscreteSchedule(((1 - PRODUCTS) / PRODUCTS).sqrt(), quantize)
    b = theirs.DiscreteSchedule(((1 - PRODUCTS) / PRODUCTS).sqrt(), quantize)
    levels = torch.cat([torch.logspace(-3, 2, 301), torch.zeros(1), a.sigmas[:50]])
    torch.testing.assert_close(a.sigma_to_t(levels), b.sigma_to_t(levels), rtol=0, atol=2e-4)
    times = torch.linspace(0, 999, 777)
    torch.testing.assert_close(a.t_to_sigma(times), b.t_to_sigma(times))
    for n in (None, 1, 7, 100):
        torch.testing.assert_close(a.get_sigmas(n), b.get_sigmas(n))
    v, w = K.external.VDenoiser(Network()), theirs.VDenoiser(Network())
    torch.testing.assert_close(v.sigma_to_t(levels), w.sigma_to_t(levels))
    torch.testing.assert_close(v.t_to_sigma(times / 1000), w.t_to_sigma(times / 1000))


def test_names_and_arguments_agree(theirs):
    public = {
        name
        for name, value in vars(theirs).items()
        if inspect.isclass(value) and value.__module__ == theirs.__name__
    }
    assert public == {*K.external.__all__}
    for name in public:
        ours, other = getattr(K.external, name), getattr(theirs, name)
        assert arguments(ours) == arguments(other), name
        methods = {key for key in vars(other) if not key.startswith("_")}
        assert all(hasattr(ours, method) for method in methods), name
        bases = {base.__name__ for base in other.__mro__} & public
        assert bases <= {base.__name__ for base in ours.__mro__}


def test_the_module_of_samplers_has_the_names_of_k_diffusion():
    sampling = k_diffusion("sampling")
    public = {
        name
        for name, value in vars(sampling).items()
        if callable(value) and getattr(value, "__module__", "") == sampling.__name__
    }
    assert public - {*K.sampling.__all__} == set()


def test_weights_of_the_multistep_method_agree():
    theirs = k_diffusion("sampling")
    t = K.sampling.get_sigmas_karras(6, 0.1, 10.0).double()
    for order in (1, 2, 3, 4):
        for j in range(order):
            a, b = (s.linear_multistep_coeff(order, t, 3, j) for s in (K.sampling, theirs))
            assert a == pytest.approx(b, rel=1e-6)


def arguments(constructor):
    parameters = inspect.signature(constructor).parameters.values()
    return [(parameter.name, parameter.default) for parameter in parameters]
