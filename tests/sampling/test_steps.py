"""Test the elementary steps, checks and errors that all samplers share."""

from __future__ import annotations

import math

import pytest
import torch

from edmfast import sampling
from edmfast.sampling.steps import churn_factors

SAMPLERS = [
    sampling.sample_euler,
    sampling.sample_heun,
    sampling.sample_dpmpp_2m,
    sampling.sample_euler_ancestral,
]
GOOD_X = torch.zeros(2, 3)
GOOD_SIGMAS = torch.tensor([2.0, 1.0, 0.0])


def zero(x, sigma):
    return torch.zeros_like(x)


def test_to_d_takes_every_form_of_sigma():
    x, denoised = torch.full((2, 3), 5.0), torch.ones(2, 3)
    expected = torch.tensor([[2.0] * 3, [1.0] * 3])
    assert torch.equal(sampling.to_d(x, torch.tensor([2.0, 4.0]), denoised), expected)
    assert torch.equal(sampling.to_d(x, torch.tensor(2.0), denoised), torch.full((2, 3), 2.0))
    assert torch.equal(sampling.to_d(x, 2.0, denoised), torch.full((2, 3), 2.0))


@pytest.mark.parametrize("kind", [float, lambda v: torch.tensor(v, dtype=torch.float64)])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 3.0])
def test_ancestral_step_splits_the_variance(kind, eta):
    down, up = sampling.get_ancestral_step(kind(2.0), kind(1.5), eta)
    assert float(up) == pytest.approx(min(1.5, eta * math.sqrt(1.5**2 * (4 - 1.5**2) / 4)))
    assert float(down) == pytest.approx(math.sqrt(1.5**2 - float(up) ** 2), abs=1e-12)


def test_churn_is_capped_and_limited_to_its_range():
    assert churn_factors([4.0, 2.0, 1.0, 0.0], 0.3, 1.5, 3.0) == [0.0, pytest.approx(0.1), 0.0]
    assert churn_factors([4.0, 0.0], 100.0, 0.0, math.inf) == [math.sqrt(2) - 1]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("x", "sigmas", "error", "message"),
    [
        (GOOD_X, [2.0, 1.0], TypeError, r"sigmas must be a floating-point tensor .* got list"),
        (GOOD_X, GOOD_SIGMAS.long(), TypeError, "got torch.int64 tensor"),
        (GOOD_X, GOOD_SIGMAS[:1], ValueError, r"sigmas must be \[T \+ 1\]"),
        (GOOD_X, GOOD_SIGMAS[None], ValueError, r"sigmas must be .* got shape \(1, 3\)"),
        (GOOD_X, torch.tensor([1.0, 0.5, 2.0]), ValueError, r"decrease .*sigmas\[2\] = 2.0"),
        (GOOD_X, torch.tensor([1e30, 1.0]), ValueError, r"sigmas\[0\] must be from .*1e\+30"),
        (GOOD_X, torch.tensor([1.0, 1e-30]), ValueError, r"sigmas\[1\] must be from .*1e-30"),
        (GOOD_X, torch.tensor([1.0, 1.0]), ValueError, "decrease strictly"),
        (GOOD_X, torch.tensor([1.0, 0.0, 0.0]), ValueError, "decrease strictly"),
        (GOOD_X, torch.tensor([1.0, -1.0]), ValueError, r"got sigmas\[1\] = -1.0"),
        (GOOD_X, torch.tensor([1.0, math.nan]), ValueError, r"got sigmas\[1\] = nan"),
        (GOOD_X, torch.tensor([math.inf, 1.0]), ValueError, r"got sigmas\[0\] = inf"),
        (GOOD_X.long(), GOOD_SIGMAS, TypeError, "x must be a floating-point tensor"),
        ([0.0], GOOD_SIGMAS, TypeError, "x must be .* got list"),
        (GOOD_X[0], GOOD_SIGMAS, ValueError, r"x must be \[B, \*shape\]"),
        (GOOD_X / 0, GOOD_SIGMAS, ValueError, "x must be finite"),
    ],
)
def test_a_bad_start_is_refused(sampler, x, sigmas, error, message):
    with pytest.raises(error, match=message):
        sampler(zero, x, sigmas, disable=True)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_model_that_returns_another_shape_is_refused(sampler):
    with pytest.raises(ValueError, match=r"\[2, 3\] like x: .*lambda> returned \[2, 1\]"):
        sampler(lambda x, sigma: x[:, :1], GOOD_X, GOOD_SIGMAS, disable=True)


@pytest.mark.parametrize(
    ("sampler", "arguments", "message"),
    [
        (sampling.sample_euler, {"s_churn": -1.0}, "s_churn must be at least 0, got -1.0"),
        (
            sampling.sample_heun,
            {"s_noise": math.nan},
            "s_noise must be finite and at least 0, got nan",
        ),
        (sampling.sample_euler_ancestral, {"eta": -0.1}, "eta must be at least 0, got -0.1"),
        (
            sampling.sample_euler_ancestral,
            {"s_noise": -1.0},
            "s_noise must be finite and at least 0",
        ),
    ],
)
def test_bad_noise_settings_are_refused(sampler, arguments, message):
    with pytest.raises(ValueError, match=message):
        sampler(zero, GOOD_X, GOOD_SIGMAS, disable=True, **arguments)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_model_gets_a_batch_of_sigmas_and_the_extra_arguments(sampler):
    seen = []

    def model(x, sigma, *, label):
        seen.append((tuple(sigma.shape), sigma.dtype, label))
        return torch.zeros_like(x)

    x = torch.ones(2, 3, dtype=torch.float64)
    sampler(model, x, GOOD_SIGMAS, extra_args={"label": 7}, disable=True)
    assert set(seen) == {((2,), torch.float64, 7)}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_start_stays_and_a_last_step_to_zero_ends_at_the_denoised_state(sampler):
    x = torch.ones(2, 3)
    out = sampler(lambda x, sigma: x * 0.5, x, torch.tensor([1.0, 0.0]), disable=True)
    assert torch.equal(x, torch.ones(2, 3))
    assert torch.equal(out, torch.full((2, 3), 0.5))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_state_keeps_its_dtype_and_carries_no_graph(sampler):
    weight = torch.ones((), requires_grad=True)
    out = sampler(
        lambda x, sigma: (weight * x).bfloat16(), torch.ones(2, 3), GOOD_SIGMAS, disable=True
    )
    assert out.dtype == torch.float32
    assert not out.requires_grad


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_empty_batch(sampler):
    assert sampler(zero, torch.zeros(0, 3), GOOD_SIGMAS, disable=True).shape == (0, 3)
