"""Test what only the EDM and EDM2 samplers have: guidance, limits of the network, dtypes, noise."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast import sampling

SAMPLERS = [sampling.edm_sampler, sampling.edm2_sampler]
RANGE = {"num_steps": 5, "sigma_min": 0.1, "sigma_max": 5.0}


def pull_to(value):
    return lambda x, sigma: value + (x - value) / (1 + sigma.reshape(-1, 1) ** 2)


def test_guidance_extrapolates_from_the_guide():
    z = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    net, guide = pull_to(1.0), pull_to(-0.5)

    def combined(x, sigma):
        return 2.5 * net(x, sigma) - 1.5 * guide(x, sigma)

    guided = sampling.edm2_sampler(net, z, gnet=guide, guidance=2.5, dtype=torch.float64, **RANGE)
    expected = sampling.edm2_sampler(combined, z, dtype=torch.float64, **RANGE)
    torch.testing.assert_close(guided, expected, rtol=1e-12, atol=1e-12)


def test_without_guidance_the_guide_is_not_called():
    def guide(x, sigma):
        raise AssertionError("the guide was called")

    sampling.edm2_sampler(pull_to(1.0), torch.zeros(1, 2), gnet=guide, **RANGE)
    with pytest.raises(ValueError, match=r"guidance=2.0 needs a guiding network"):
        sampling.edm2_sampler(pull_to(1.0), torch.zeros(1, 2), guidance=2.0, **RANGE)


def test_labels_are_the_third_argument_of_both_networks():
    seen = []

    def net(x, sigma, labels):
        seen.append(labels)
        return x

    labels = torch.eye(3)
    sampling.edm_sampler(net, torch.zeros(3, 2), labels, **RANGE)
    sampling.edm2_sampler(net, torch.zeros(3, 2), labels, net, guidance=1.5, **RANGE)
    assert len(seen) == 9 + 18
    assert all(torch.equal(argument, labels) for argument in seen)


class Labelled(torch.nn.Module):
    """A network that adds its labels."""

    def forward(self, x, sigma, labels):
        return x + labels


class Cut(torch.nn.Module):
    """A network that returns too few columns."""

    def forward(self, x, sigma):
        return x[:, :1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_errors_name_the_labels_or_the_network(sampler):
    name = "class_labels" if sampler is sampling.edm_sampler else "labels"
    message = f"^{name} has 3 rows for a batch of 4: a condition has one row per sample"
    with pytest.raises(ValueError, match=message):
        sampler(Labelled(), torch.zeros(4, 2), torch.zeros(3, 2), **RANGE)
    with pytest.raises(ValueError, match=r"Cut returned \[4, 1\]"):
        sampler(Cut(), torch.zeros(4, 2), **RANGE)


def test_labels_of_a_guide_are_checked():
    class Guide(Labelled):
        pass

    with pytest.raises(ValueError, match=r"^labels has 3 rows for a batch of 4"):
        sampling.edm2_sampler(
            lambda x, sigma, labels: x,
            torch.zeros(4, 2),
            torch.zeros(3, 2),
            Guide(),
            guidance=2.0,
            **RANGE,
        )


class LimitedNetwork:
    """A network for integer noise levels from 1 to 4, like networks trained on a discrete grid."""

    sigma_min, sigma_max = 1.0, 4.0

    def __init__(self):
        self.sigmas = []

    def round_sigma(self, sigma):
        return sigma.round()

    def __call__(self, x, sigma):
        self.sigmas.append(float(sigma[0]))
        return torch.zeros_like(x)


def test_range_and_rounding_of_the_network_are_respected():
    net = LimitedNetwork()
    sampling.edm_sampler(net, torch.zeros(1, 2), num_steps=3, sigma_min=0.1, sigma_max=9.0, rho=1)
    # The grid 4, 2.5, 1 rounds to 4, 2, 1, and a step of Heun's method evaluates both ends.
    assert net.sigmas == [4.0, 2.0, 2.0, 1.0, 1.0]


def test_raised_levels_are_rounded_too():
    net = LimitedNetwork()
    sampling.edm_sampler(net, torch.zeros(1, 2), num_steps=3, rho=1, S_churn=9)
    # The levels are raised by sqrt(2), the largest factor, to 5.66, 2.83 and 1.41.
    assert net.sigmas == [6.0, 2.0, 3.0, 1.0, 1.0]


def test_dtypes():
    seen = []

    def net(x, sigma):
        seen.append((x.dtype, sigma.dtype))
        return x

    assert sampling.edm_sampler(net, torch.zeros(1, 2), **RANGE).dtype == torch.float64
    assert sampling.edm2_sampler(net, torch.zeros(1, 2).double(), **RANGE).dtype == torch.float32
    assert set(seen) == {(torch.float32, torch.float32)}
    seen.clear()
    sampling.edm_sampler(net, torch.zeros(1, 2).double(), **RANGE)
    assert set(seen) == {(torch.float64, torch.float64)}


def test_a_noise_source_is_called_as_often_as_in_the_projects():
    calls = []

    def randn_like(x):
        calls.append(x)
        return torch.zeros_like(x)

    churn = {"S_churn": 5, "S_min": 0.5, "S_max": 2.0}
    sampling.edm_sampler(pull_to(0.0), torch.zeros(1, 2), randn_like=randn_like, **RANGE, **churn)
    assert len(calls) == 5
    calls.clear()
    sampling.edm2_sampler(pull_to(0.0), torch.zeros(1, 2), randn_like=randn_like, **RANGE, **churn)
    levels = sampling.get_sigmas_karras(5, 0.1, 5.0)
    assert len(calls) == int(((levels >= 0.5) & (levels <= 2.0)).sum()) > 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_returns_the_denoised_state(sampler):
    out = sampler(lambda x, sigma: x + sigma[:, None], torch.ones(1, 2), num_steps=1, sigma_max=8.0)
    assert torch.equal(out, torch.full((1, 2), 16.0, dtype=out.dtype))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("latents", "arguments", "error", "message"),
    [
        (torch.zeros(2), {}, ValueError, r"must be \[B, \*shape\]"),
        (torch.zeros(2, 3, dtype=torch.int32), {}, TypeError, "got torch.int32 tensor"),
        (torch.full((2, 3), math.nan), {}, ValueError, "must be finite"),
        (torch.zeros(2, 3), {"num_steps": 0}, ValueError, "num_steps must be .* got 0"),
        (torch.zeros(2, 3), {"sigma_min": 0.0}, ValueError, "sigma_min must be positive"),
        (torch.zeros(2, 3), {"sigma_min": 90.0}, ValueError, "must not exceed sigma_max"),
        (torch.zeros(2, 3), {"rho": 0}, ValueError, "rho must be positive"),
        (torch.zeros(2, 3), {"S_churn": -1}, ValueError, "S_churn must be at least 0"),
        (torch.zeros(2, 3), {"S_noise": -1}, ValueError, "S_noise must be finite and at least 0"),
    ],
)
def test_bad_arguments_are_refused(sampler, latents, arguments, error, message):
    with pytest.raises(error, match=message):
        sampler(lambda x, sigma: x, latents, **arguments)
