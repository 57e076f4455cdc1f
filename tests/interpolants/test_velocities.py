"""Test velocity networks as denoisers and back, against the exact fields of a mixture of Gaussians."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import nn

import edmfast
from edmfast import analytic, interpolants, sampling
from edmfast.interpolants.denoiser_velocity import DenoiserVelocity
from edmfast.interpolants.one_sided import Convention
from edmfast.interpolants.velocity_denoiser import VelocityDenoiser
from tests.small_models import mlp

DATA = analytic.GaussianMixture([[-1.5, 0.5], [1.0, -2.0], [0.3, 2.0]], [0.5, 0.8, 0.3])
PATHS = {"linear": "one-sided-linear", "trig": "one-sided-trig"}
SIGMAS = torch.tensor([80.0, 7.0, 1.0, 0.3, 0.02], dtype=torch.float64)
Z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X = DATA.sample(5, seed=1) + SIGMAS[:, None] * Z


def exact(path):
    """Return the drift of the exact interpolant from noise to the data."""
    mixture = interpolants.GaussianMixtureInterpolant(
        None, DATA, interpolants.Interpolant(PATHS[path])
    )
    return mixture.drift


def plain(x, sigma):
    """Return the exact denoised states without an energy beside them."""
    return DATA.denoise(x, sigma)


@pytest.mark.parametrize("path", PATHS)
def test_a_velocity_becomes_the_exact_denoiser(path):
    denoiser = interpolants.from_velocity(exact(path), path=path)
    torch.testing.assert_close(denoiser(X, SIGMAS), DATA.denoise(X, SIGMAS), rtol=1e-12, atol=1e-12)
    one = denoiser(X, 0.7)
    torch.testing.assert_close(one, DATA.denoise(X, 0.7), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", [DATA, plain], ids=["energy", "denoiser"])
def test_a_denoiser_and_an_energy_become_the_exact_velocity(path, model):
    velocity = interpolants.to_velocity(model, path=path)
    t = torch.tensor([0.02, 0.2, 0.5, 0.9, 0.99], dtype=torch.float64)
    expected = exact(path)(X / 10, t)
    torch.testing.assert_close(velocity(X / 10, t), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(velocity(X / 10, 0.4), exact(path)(X / 10, 0.4))


def test_the_linear_path_has_the_formulas_of_rectified_flow():
    calls = []

    def network(x, t):
        calls.append((x, t))
        return torch.sin(x) + t[:, None]

    denoised = interpolants.from_velocity(network)(X, SIGMAS)
    ((state, t),) = calls
    torch.testing.assert_close(t, 1 / (1 + SIGMAS))
    torch.testing.assert_close(state, X * t[:, None])
    torch.testing.assert_close(denoised, state + (1 - t[:, None]) * network(state, t))


def test_stable_diffusion_3_states_time_the_other_way():
    calls = []

    def network(x, s):
        calls.append(s)
        return torch.cos(x)

    denoised = interpolants.from_velocity(network, direction="data_to_noise", time_scale=1000)(
        X, SIGMAS
    )
    s = SIGMAS / (1 + SIGMAS)
    torch.testing.assert_close(calls[0], 1000 * s)
    state = X * (1 - s[:, None])
    torch.testing.assert_close(denoised, state - s[:, None] * torch.cos(state))
    velocity = interpolants.to_velocity(plain, direction="data_to_noise", time_scale=1000)
    forward = interpolants.to_velocity(plain)
    torch.testing.assert_close(velocity(Z, 1000 * s), -forward(Z, 1 - s))


@pytest.mark.parametrize("direction", ["noise_to_data", "data_to_noise"])
@pytest.mark.parametrize("path", PATHS)
def test_round_trips_return_the_model_itself_and_compute_it_too(path, direction):
    options = {"path": path, "direction": direction, "time_scale": 1000}
    velocity = interpolants.to_velocity(plain, **options)
    assert interpolants.from_velocity(velocity, **options) is plain
    denoiser = interpolants.from_velocity(torch.sin, **options)
    assert interpolants.to_velocity(denoiser, **options) is torch.sin
    # another convention is computed
    assert interpolants.from_velocity(velocity, path=path) is not plain
    convention = Convention(path, direction, 1000.0)
    computed = VelocityDenoiser(velocity, convention)(X, SIGMAS)
    torch.testing.assert_close(computed, plain(X, SIGMAS), rtol=1e-12, atol=1e-12)
    network = DATA.denoise
    back = DenoiserVelocity(VelocityDenoiser(network, convention), convention, None)
    times = convention.network_time(torch.linspace(0.05, 0.95, 5, dtype=torch.float64))
    torch.testing.assert_close(back(Z, times), network(Z, times), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_the_ends_have_their_limits(path):
    denoiser = interpolants.from_velocity(exact(path), path=path)
    assert torch.equal(denoiser(X, 0.0), X)
    levels = torch.tensor([math.inf, 0.0, 1.0, 0.0, math.inf], dtype=torch.float64)
    limits = denoiser(X, levels)
    mean = (DATA.weights @ DATA.means).expand(2, 2)
    torch.testing.assert_close(limits[[0, 4]], mean)
    torch.testing.assert_close(limits[[1, 3]], X[[1, 3]])
    for model in (DATA, plain):
        velocity = interpolants.to_velocity(model, path=path, sigma_max=1e6)
        torch.testing.assert_close(velocity(Z, 1.0), exact(path)(Z, 1.0), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(velocity(Z, 0.0), exact(path)(Z, 0.0), rtol=1e-5, atol=1e-5)
        # gradients stay finite in a batch that holds the ends
        state = Z.clone().requires_grad_()
        t = torch.tensor([0.0, 1.0, 0.5, 0.0, 1.0], dtype=torch.float64)
        velocity(state, t).sum().backward()
        assert state.grad.isfinite().all()


def test_pure_noise_without_a_largest_level_is_refused():
    velocity = interpolants.to_velocity(plain)
    for t in (0.0, torch.tensor(0.0), torch.tensor([0.5, 0.0, 1.0, 0.5, 0.5])):
        with pytest.raises(ValueError, match=r"time = 0 is pure noise.*sigma_max"):
            velocity(Z, t)
    reversed_velocity = interpolants.to_velocity(plain, direction="data_to_noise", time_scale=1000)
    with pytest.raises(ValueError, match="time = 1000 is pure noise"):
        reversed_velocity(Z, 1000)


def parameters(name):
    return inspect.signature(getattr(sampling, name)).parameters


def needed(name):
    return [p.name for p in parameters(name).values() if p.default is p.empty]


# a sampler of fitted statistics or of a chosen solver needs more arguments
SAMPLERS = [
    name
    for name in sampling.__all__
    if name.startswith("sample_") and needed(name) == ["model", "x", "sigmas"]
]


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_over_levels_runs_on_a_velocity(name):
    sampler = getattr(sampling, name)
    sigmas = torch.tensor([40.0, 6.0, 1.0, 0.2, 0.0], dtype=torch.float64)
    flow = interpolants.from_velocity(exact("trig"), path="trig")
    options = {"disable": True} | ({"seed": 3} if "seed" in parameters(name) else {})
    expected = sampler(plain, 40 * Z, sigmas, **options)
    torch.testing.assert_close(sampler(flow, 40 * Z, sigmas, **options), expected)


def test_samplers_between_two_levels_run_on_a_velocity():
    flow = interpolants.from_velocity(exact("linear"))
    options = {"disable": True, "seed": 3}
    for sampler, more in ((sampling.sample_dpm_fast, {"n": 7}), (sampling.sample_dpm_adaptive, {})):
        expected = sampler(plain, 10 * Z, 0.1, 10.0, **more, **options)
        torch.testing.assert_close(sampler(flow, 10 * Z, 0.1, 10.0, **more, **options), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_keep_their_digits(dtype):
    def network(x, t):
        assert x.dtype == t.dtype == dtype
        return torch.sin(x) * t[:, None]

    x = X[2:].to(dtype)
    denoised = interpolants.from_velocity(network)(x, 0.3)
    assert denoised.dtype == dtype
    t = 1 / 1.3
    expected = x.double() * t + (1 - t) * torch.sin(x.double() * t) * t
    error = (denoised.double() - expected).abs()
    assert (error <= 4 * torch.finfo(dtype).eps * expected.abs().clamp_min(1)).all()


def test_other_parts_of_the_package_take_a_velocity():
    """Log-densities and products are those of the denoiser itself."""
    x = DATA.sample(3, seed=2)
    levels = torch.logspace(2, -1.3, 12)
    flow = interpolants.from_velocity(exact("linear"))
    result, expected = (
        edmfast.log_density(model, x, levels, seed=1, probes=2).mean for model in (flow, plain)
    )
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    tempered = edmfast.Product([flow, DATA], exponents=[2, -1])
    torch.testing.assert_close(tempered(x, 0.5), DATA.denoise(x, 0.5))


def test_conditions_pass_through_and_modules_move_along():
    class Labelled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, x, t, class_label):
            return self.scale * x * class_label[:, None]

    network = Labelled()
    labels = torch.arange(5)
    denoiser = interpolants.from_velocity(network).double()
    assert network.scale.dtype == torch.float64
    expected = X / (1 + 1.0) + 0.5 * X / 2 * labels[:, None]
    torch.testing.assert_close(denoiser(X, 1.0, class_label=labels), expected)
    with pytest.raises(TypeError, match="accepts the conditions class_label"):
        denoiser(X, 1.0, text=labels)
    conditioned = edmfast.Conditioned(denoiser, class_label=2)
    torch.testing.assert_close(conditioned(X, 1.0), X / 2 + 0.5 * X)
    velocity = interpolants.to_velocity(denoiser, time_scale=2.0)
    torch.testing.assert_close(velocity(X, 1.0, class_label=labels), X * labels[:, None])


def test_an_energy_model_keeps_its_digits_near_the_data():
    """The velocity of the score and that of the denoised states agree, and are differentiable."""
    model = edmfast.EnergyModel(mlp()).double()
    with_score = interpolants.to_velocity(model)
    with_states = interpolants.to_velocity(lambda x, sigma: model(x, sigma))
    x = Z.clone().requires_grad_()
    for t in (0.1, 0.6, 0.97):
        torch.testing.assert_close(with_score(x, t), with_states(x, t), rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(with_score(x, 0.6).sum(), x)
    assert gradient.abs().sum() > 0


def test_networks_that_return_something_else_are_named():
    with pytest.raises(TypeError, match=r"the velocity network must return a tensor.*tuple of 2"):
        interpolants.from_velocity(lambda x, t: (x, t))(X, 1.0)
    with pytest.raises(ValueError, match=r"the velocity network must return \[B, 2\]"):
        interpolants.from_velocity(lambda x, t: x[:, :1])(X, 1.0)
    with pytest.raises(TypeError, match="velocity must be callable"):
        interpolants.from_velocity(3)
    with pytest.raises(TypeError, match=r"denoiser must be callable.*the class GaussianMixture"):
        interpolants.to_velocity(analytic.GaussianMixture)
    with pytest.raises(ValueError, match="path must be one of"):
        interpolants.from_velocity(torch.sin, path="cosine")
    with pytest.raises(ValueError, match=r"direction must be one of.*Flux"):
        interpolants.from_velocity(torch.sin, direction="backwards")
