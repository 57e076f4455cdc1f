"""The wrappers give the numbers of their formulas, and their errors name the network and what it returned."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import edmfast.k_diffusion as K
from edmfast import sampling

# The noise levels of these products are 1/2, 1 and 2.
PRODUCTS = torch.tensor([0.8, 0.5, 0.2])
X = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
SIGMA = torch.tensor([1.0, 2.0])


class Linear(nn.Module):
    """A network whose prediction is y + t + shift, and which keeps what it was called with."""

    alphas_cumprod = PRODUCTS

    def forward(self, y, t, shift=0.0):
        self.called = y.clone(), t.clone()
        result = y + t[:, None] + shift
        # Foreign networks may overwrite what they get.
        y.zero_()
        return result

    def apply_model(self, y, t, cond=None):
        return self.forward(y, t, 0.0 if cond is None else cond)


def discrete(**options):
    return K.external.DiscreteEpsDDPMDenoiser(Linear(), PRODUCTS, **({"quantize": False} | options))


def wrappers():
    diffusion = SimpleNamespace(alphas_cumprod=PRODUCTS.tolist())
    return {
        "eps": discrete(),
        "openai": K.external.OpenAIDenoiser(Linear(), diffusion, has_learned_sigmas=False),
        "compvis": K.external.CompVisDenoiser(Linear()),
        "v": K.external.VDenoiser(Linear()),
        "discrete v": K.external.DiscreteVDDPMDenoiser(Linear(), PRODUCTS, False),
        "compvis v": K.external.CompVisVDenoiser(Linear()),
    }


def test_a_schedule_has_the_levels_of_its_products():
    schedule = discrete()
    torch.testing.assert_close(schedule.sigmas, torch.tensor([0.5, 1.0, 2.0]))
    torch.testing.assert_close(schedule.log_sigmas, torch.tensor([0.5, 1.0, 2.0]).log())
    assert {"sigmas", "log_sigmas"} <= schedule.state_dict().keys()
    assert (schedule.sigma_min, schedule.sigma_max) == (schedule.sigmas[0], schedule.sigmas[-1])
    torch.testing.assert_close(schedule.get_sigmas(), torch.tensor([2.0, 1.0, 0.5, 0.0]))
    five = torch.tensor([2.0, math.sqrt(2), 1.0, math.sqrt(0.5), 0.5, 0.0])
    torch.testing.assert_close(schedule.get_sigmas(5), five)


def test_times_are_linear_in_the_logarithm_of_the_level():
    schedule = discrete()
    levels = torch.tensor([[0.5, 1.0, 2.0], [math.sqrt(2), 2**0.25, 2**-0.75]])
    times = torch.tensor([[0.0, 1.0, 2.0], [1.5, 1.25, 0.25]])
    torch.testing.assert_close(schedule.sigma_to_t(levels), times)
    torch.testing.assert_close(schedule.t_to_sigma(times), levels)
    beyond = torch.tensor([0.0, 1e-9, 0.4, 2.1, 1e9])
    assert schedule.sigma_to_t(beyond).tolist() == [0.0, 0.0, 0.0, 2.0, 2.0]
    assert schedule.sigma_to_t(torch.tensor(1.0)).shape == ()


def test_quantised_times_are_the_nearest_whole_ones():
    schedule = discrete(quantize=True)
    levels = torch.tensor([0.0, 0.1, 0.7, 0.72, 1.4, 1.42, 9.0])
    assert schedule.sigma_to_t(levels).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert schedule.sigma_to_t(levels).dtype == torch.int64
    between = schedule.sigma_to_t(levels[4:5], quantize=False)
    torch.testing.assert_close(between, torch.tensor([1.485427]), rtol=0, atol=2e-6)
    assert discrete().sigma_to_t(levels[4:5], quantize=True).tolist() == [1]


def test_the_continuous_schedule_is_that_of_the_angle():
    model = K.external.VDenoiser(Linear())
    levels = torch.tensor([0.0, 1.0, math.sqrt(3)])
    torch.testing.assert_close(model.sigma_to_t(levels), torch.tensor([0.0, 0.5, 2 / 3]))
    torch.testing.assert_close(model.t_to_sigma(torch.tensor([0.5])), torch.tensor([1.0]))


def test_noise_networks_get_scaled_states_and_give_denoised_ones():
    """At sigma = 1, y = x / sqrt(2), t = 1 and D = x - (y + 1)."""
    for name in ("eps", "openai", "compvis"):
        model = wrappers()[name]
        before = X.clone()
        denoised = model(X, SIGMA)
        y, t = model.inner_model.called
        roots = torch.tensor([[2.0], [5.0]]).sqrt()
        torch.testing.assert_close(y, X / roots)
        torch.testing.assert_close(t, torch.tensor([1.0, 2.0]))
        expected = torch.tensor([[-0.707107, -1.585786], [-3.683282, -3.947214]])
        torch.testing.assert_close(denoised, expected, rtol=0, atol=2e-6)
        assert torch.equal(X, before)


def test_velocity_networks_give_denoised_states():
    """At sigma = 1, D = x / 2 - v / sqrt(2), with v = x / sqrt(2) + t."""
    denoised = {name: wrappers()[name](X, SIGMA) for name in ("v", "discrete v", "compvis v")}
    continuous = torch.tensor([[-0.353553, -0.353553], [-1.230422, -0.730422]])
    torch.testing.assert_close(denoised["v"], continuous, rtol=0, atol=2e-6)
    by_list = torch.tensor([[-0.707107, -0.707107], [-2.388854, -1.888854]])
    for name in ("discrete v", "compvis v"):
        torch.testing.assert_close(denoised[name], by_list, rtol=0, atol=2e-6)


def test_a_condition_reaches_the_network():
    shift = torch.tensor([[0.25], [1.0]])
    for name, model in wrappers().items():
        keyword = "cond" if name.startswith("compvis") else "shift"
        change = model(X, SIGMA, **{keyword: shift}) - model(X, SIGMA)
        factor = torch.tensor([[-1.0], [-2.0]])
        if name.endswith("v"):
            factor = factor / torch.tensor([[2.0], [5.0]]).sqrt()
        torch.testing.assert_close(change, (factor * shift).expand(2, 2))


def test_losses_are_mean_squares_of_each_sample():
    """With x = 0 and noise 1 at sigma = 1: y = 1 / sqrt(2), eps = y + 1, v = y + 1 and its target is y."""
    clean, noise, sigma = torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2)
    for name in ("eps", "openai", "compvis"):
        loss = wrappers()[name].loss(clean, noise, sigma)
        torch.testing.assert_close(loss, torch.full((2,), 0.5))
    torch.testing.assert_close(wrappers()["v"].loss(clean, noise, sigma), torch.full((2,), 0.25))
    discrete_v = wrappers()["discrete v"].loss(clean, noise, sigma)
    torch.testing.assert_close(discrete_v, torch.full((2,), 1.0))


def test_learned_variances_are_dropped():
    class Both(nn.Module):
        def forward(self, y, t):
            return torch.cat([y + 1, y * 100], dim=1)

    diffusion = SimpleNamespace(alphas_cumprod=PRODUCTS.double().numpy())
    x = torch.ones(2, 3, 4, 4)
    model = K.external.OpenAIDenoiser(Both(), diffusion)
    torch.testing.assert_close(model(x, torch.ones(2)), torch.full_like(x, -math.sqrt(0.5)))
    single = K.external.OpenAIDenoiser(lambda y, t: y, diffusion)
    with pytest.raises(ValueError, match=r"must return 6 channels for 3: .* \[2, 3, 4, 4\]; pass"):
        single(x, torch.ones(2))


@pytest.mark.parametrize("name", wrappers())
def test_levels_of_every_form_give_one_result(name):
    model = wrappers()[name]
    rows = model(X, torch.tensor([1.5, 1.5]))
    for level in (1.5, torch.tensor(1.5), torch.tensor([1.5, 1.5], dtype=torch.float64)):
        torch.testing.assert_close(model(X, level).float(), rows)
    assert model(X.double(), 1.5).dtype == torch.float64
    half = model(X.bfloat16(), 1.5)
    torch.testing.assert_close(half.float(), rows, rtol=0.02, atol=0.02)
    with pytest.raises(ValueError, match=r"sigma must be a float, \[\] or \[B\] with B = 2"):
        model(X, torch.ones(3))


@pytest.mark.parametrize("name", wrappers())
def test_gradients_reach_the_states_through_a_wrapper(name):
    x = X.double().requires_grad_()
    model = wrappers()[name]
    model(x, 1.0).sum().backward()
    slope = {"v": 0.0, "discrete v": 0.0, "compvis v": 0.0}.get(name, 1 - math.sqrt(0.5))
    torch.testing.assert_close(x.grad, torch.full_like(x, slope), rtol=0, atol=1e-7)


def test_subclasses_may_replace_the_call_of_the_network():
    class Halved(K.external.DiscreteEpsDDPMDenoiser):
        def get_eps(self, *args, **kwargs):
            return 0.5 * self.inner_model(*args, **kwargs)

    half, whole = Halved(Linear(), PRODUCTS, False), discrete()
    torch.testing.assert_close(half(X, SIGMA) - X, (whole(X, SIGMA) - X) / 2)


@pytest.mark.parametrize(
    ("returned", "error", "words"),
    [
        (lambda y: (y,), TypeError, "must return a tensor like its input, .* returned"),
        (
            lambda y: y[:, :1],
            ValueError,
            r"must return \[B, 2\] like its input: .*returned \[B, 1\]",
        ),
        (lambda y: y.long(), TypeError, "int64"),
    ],
    ids=["tuple", "shape", "integers"],
)
def test_a_wrong_result_of_the_network_is_named(returned, error, words):
    def network(y, t):
        return returned(y)

    for model in (
        K.external.DiscreteEpsDDPMDenoiser(network, PRODUCTS, False),
        K.external.VDenoiser(network),
    ):
        for recorded in (True, False):
            with torch.set_grad_enabled(recorded), pytest.raises(error, match=words):
                model(X, SIGMA)


def test_an_unknown_condition_names_the_network():
    def network(y, t, label):
        return y

    model = K.external.VDenoiser(network)
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded), pytest.raises(TypeError, match="network accepts"):
            model(X, SIGMA, labels=torch.ones(2))


def test_a_network_may_overwrite_its_conditions():
    def network(y, t, label):
        return y + label.zero_()

    label = torch.ones(2, 1)
    with torch.no_grad():
        K.external.VDenoiser(network)(X, SIGMA, label=label)
    assert torch.equal(label, torch.ones(2, 1))


@pytest.mark.parametrize(
    ("products", "error", "words"),
    [
        (torch.tensor([0.2, 0.5]), ValueError, "that do not increase"),
        (torch.tensor([0.5]), ValueError, r"\[N\] with N >= 2, got shape \[1\]"),
        (torch.tensor([1, 0]), TypeError, "alphas_cumprod must be a floating-point tensor"),
        ([0.8, 0.5], TypeError, "alphas_cumprod must be a floating-point tensor .*, got list"),
        (torch.tensor([0.8, math.nan]), ValueError, "levels >= 0"),
    ],
)
def test_a_wrong_schedule_is_refused(products, error, words):
    with pytest.raises(error, match=words):
        K.external.DiscreteEpsDDPMDenoiser(Linear(), products, False)


def test_weights_of_the_multistep_method_are_those_of_adams_and_bashforth():
    """On an equal grid of steps -1 the weights are -(55, -59, 37, -9) / 24."""
    t = torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0])
    weights = [K.sampling.linear_multistep_coeff(4, t, 3, j) for j in range(4)]
    assert weights == pytest.approx([-55 / 24, 59 / 24, -37 / 24, 9 / 24], rel=1e-12)
    with pytest.raises(ValueError, match="order must be at most 2 at step 1, got 3"):
        K.sampling.linear_multistep_coeff(3, t, 1, 0)


def test_a_sampler_runs_over_a_wrapper():
    model = discrete()
    x = 2.0 * torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    first = K.sampling.sample_dpmpp_2m(model, x, model.get_sigmas(6), disable=True)
    second = sampling.sample_dpmpp_2m(model, x, model.get_sigmas(6), disable=True)
    assert torch.equal(first, second)
    conditioned = K.sampling.sample_euler(
        model, x, model.get_sigmas(6), extra_args={"shift": torch.ones(4, 1)}, disable=True
    )
    assert not torch.equal(conditioned, K.sampling.sample_euler(model, x, model.get_sigmas(6)))
