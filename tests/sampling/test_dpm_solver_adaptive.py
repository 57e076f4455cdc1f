"""The adaptive DPM-Solver against its published algorithm, for a batch and for each sample alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import edmfast
from edmfast import models
from edmfast.analytic import GaussianMixture
from edmfast.sampling import sample_dpm_solver_adaptive as adaptive

F64 = torch.float64
MIXTURE = GaussianMixture(
    torch.tensor([[-1.5, 0.5], [1.0, 1.0], [0.3, -1.2]], dtype=F64),
    torch.tensor([0.5, 0.3, 0.4], dtype=F64),
)
LOW, HIGH = 0.05, 20.0
X = HIGH * torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=F64)


def published(x, order, prediction, rtol=0.05, atol=0.0078, h=0.05, theta=0.9):
    """Return (states, tried steps) of the algorithm in the variance-preserving notation, for one batch."""
    place, end = -math.log(HIGH), -math.log(LOW)
    x = x.numpy() / math.sqrt(1 + HIGH**2)
    previous, tried = x, 0

    def level(at):
        """Return (alpha, sigma, log alpha) at lambda = log(alpha / sigma)."""
        log_alpha = -0.5 * math.log1p(math.exp(-2 * at))
        return math.exp(log_alpha), math.exp(log_alpha - at), log_alpha

    def model(state, at):
        alpha, sigma, _ = level(at)
        states = torch.from_numpy(state / alpha)
        denoised = MIXTURE(states, torch.full((len(state),), sigma / alpha, dtype=F64)).numpy()
        return denoised if prediction == "denoised" else (state - alpha * denoised) / sigma

    while place < end - 1e-12:
        ends = [place + share * h for share in (1 / 3, 1 / 2, 2 / 3, 1)]
        one, half, two, full = (level(at) for at in ends)
        alpha, sigma, log_alpha = level(place)
        f = model(x, place)

        def first(stop, k, alpha=alpha, sigma=sigma, log_alpha=log_alpha, x=x, f=f):
            if prediction == "denoised":
                return stop[1] / sigma * x - stop[0] * math.expm1(-k) * f
            return math.exp(stop[2] - log_alpha) * x - stop[1] * math.expm1(k) * f

        def change(stop, factor):
            return (-stop[0] if prediction == "denoised" else -stop[1]) * factor

        def curve(stop, factor):
            return (stop[0] if prediction == "denoised" else -stop[1]) * factor

        sign = -1 if prediction == "denoised" else 1
        phi = math.expm1(sign * h)
        if order == 2:
            d1 = model(first(half, h / 2), ends[1]) - f
            low, high = first(full, h), first(full, h) + change(full, phi / (2 * 0.5)) * d1
        else:
            d1 = model(first(one, h / 3), ends[0]) - f
            low = first(full, h) + change(full, phi / (2 / 3)) * d1
            inner, outer = (math.expm1(sign * k) / k - sign for k in (2 * h / 3, h))
            stage = first(two, 2 * h / 3) + curve(two, 2 * inner) * d1
            d2 = model(stage, ends[2]) - f
            high = first(full, h) + curve(full, 1.5 * outer) * d2
        delta = np.maximum(atol, rtol * np.maximum(np.abs(low), np.abs(previous)))
        error = np.sqrt(np.mean(((high - low) / delta) ** 2, axis=1)).max()
        if error <= 1:
            x, previous, place = high, low, place + h
        h = min(theta * h * error ** (-1 / order), end - place)
        tried += 1
    return x * math.sqrt(1 + LOW**2), tried


def exact(x):
    """Return the end of the probability-flow ODE by many steps of the method of Runge and Kutta."""
    levels = np.geomspace(HIGH, LOW, 501)

    def slope(y, s):
        return (y - MIXTURE(y, s)) / s

    for s, t in itertools.pairwise(levels.tolist()):
        h = t - s
        a = slope(x, s)
        b = slope(x + h / 2 * a, s + h / 2)
        c = slope(x + h / 2 * b, s + h / 2)
        x = x + h / 6 * (a + 2 * b + 2 * c + slope(x + h * c, t))
    return x


@pytest.mark.parametrize("prediction", ["epsilon", "denoised"])
@pytest.mark.parametrize("order", [2, 3])
def test_common_steps_are_the_published_algorithm(order, prediction):
    result, info = adaptive(
        MIXTURE,
        X,
        LOW,
        HIGH,
        order=order,
        prediction=prediction,
        per_sample=False,
        return_info=True,
    )
    expected, tried = published(X, order, prediction)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-9, atol=1e-9)
    assert info["steps"] == tried
    assert info["n_accept"].tolist() == [info["n_accept"][0].item()] * 5
    rejected = info["n_reject"][0].item()
    assert info["n_accept"][0].item() + rejected == tried
    # A repeated step keeps its first evaluation.
    assert info["nfe"] == order * tried - rejected


@pytest.mark.parametrize("prediction", ["epsilon", "denoised"])
@pytest.mark.parametrize("order", [2, 3])
def test_steps_of_single_samples_are_those_of_samples_alone(order, prediction):
    options = {"order": order, "prediction": prediction, "return_info": True}
    whole, info = adaptive(MIXTURE, X, LOW, HIGH, **options)
    for b in range(5):
        expected, tried = published(X[b : b + 1], order, prediction)
        np.testing.assert_allclose(whole[b : b + 1].numpy(), expected, rtol=1e-9, atol=1e-9)
        assert (info["n_accept"] + info["n_reject"])[b] == tried
    assert info["steps"] == (info["n_accept"] + info["n_reject"]).max()
    assert len(info["n_accept"].unique()) > 1


@pytest.mark.parametrize("order", [2, 3])
def test_tolerances_bound_the_error(order):
    truth = exact(X)
    for tolerance in (1e-2, 1e-3, 1e-4):
        result = adaptive(MIXTURE, X, LOW, HIGH, order=order, rtol=tolerance, atol=tolerance)
        assert (result - truth).abs().max().item() < 3 * tolerance


def test_a_last_call_denoises():
    end = adaptive(MIXTURE, X, LOW, HIGH)
    result, info = adaptive(MIXTURE, X, LOW, HIGH, denoise_to_zero=True, return_info=True)
    torch.testing.assert_close(result, MIXTURE(end, LOW), rtol=1e-12, atol=1e-12)
    assert info["nfe"] == adaptive(MIXTURE, X, LOW, HIGH, return_info=True)[1]["nfe"] + 1


def test_tolerances_may_be_in_the_units_of_x():
    # States between sigma = 4 and 8 are 4 to 8 times larger than those of the variance-preserving process, and a
    # step grows with the cube root of the tolerance.
    counts = {
        (factor, units): adaptive(
            MIXTURE, 0.4 * X, 4.0, 8.0, rtol=0, atol=1e-8 * factor, units=units, return_info=True
        )[1]["steps"]
        for factor, units in ((1, "vp"), (1, "ve"), (4, "ve"), (8, "ve"))
    }
    assert counts[8, "ve"] <= counts[1, "vp"] <= counts[4, "ve"] < counts[1, "ve"]


def test_bits_do_not_depend_on_batch_mates():
    torch.manual_seed(0)
    model = edmfast.Denoiser(models.ResidualMLP(dim=3, width=16, depth=2))
    torch.nn.init.normal_(model.backbone.output.weight)
    x = 10 * torch.randn(9, 3)
    whole = adaptive(model, x, 0.1, 10.0)
    for rows in (slice(0, 1), slice(3, 7)):
        assert torch.equal(adaptive(model, x[rows], 0.1, 10.0), whole[rows])


def test_conditions_and_the_callback():
    seen = []

    def model(x, sigma, mean):
        assert sigma.shape == (5,)
        return mean + (x - mean) / (1 + sigma[:, None] ** 2)

    def callback(info):
        seen.append({key: value for key, value in info.items() if key != "x"})
        info["x"].mul_(1.0)

    mean = torch.ones(5, 2, dtype=F64)
    start = X.clone()
    result, info = adaptive(
        model,
        X,
        LOW,
        HIGH,
        rtol=1e-6,
        atol=1e-6,
        extra_args={"mean": mean},
        callback=callback,
        return_info=True,
    )
    assert torch.equal(X, start)
    assert [one["i"] for one in seen] == list(range(info["steps"]))
    assert sum(one["accepted"] for one in seen).tolist() == info["n_accept"].tolist()
    gain = math.sqrt((1 + LOW**2) / (1 + HIGH**2))
    # Every one of about a hundred steps errs by less than the tolerance.
    torch.testing.assert_close(result, 1 + gain * (X - 1), rtol=0, atol=1e-5)


def test_an_empty_batch_needs_no_call():
    assert adaptive(MIXTURE, X[:0], LOW, HIGH).shape == (0, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_min": 30.0}, "sigma_min must be below sigma_max, got sigma_min = 30.0"),
        ({"order": 4}, "order must be an integer from 2 to 3, got 4"),
        ({"rtol": 0.0, "atol": 0.0}, "rtol and atol must not both be 0"),
        ({"prediction": "v"}, "prediction must be one of 'epsilon', 'denoised', got 'v'"),
        ({"units": "edm"}, "units must be one of 'vp', 've', got 'edm'"),
        ({"rtol": 0.0, "atol": 1e-30}, "are too small for this model"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    arguments = {"sigma_min": LOW, "sigma_max": HIGH} | options
    with pytest.raises(ValueError, match=message):
        adaptive(MIXTURE, X, **arguments)


def test_a_model_that_returns_nan_is_refused():
    with pytest.raises(ValueError, match="returned NaN or infinity after 0 steps"):
        adaptive(lambda x, sigma: x * math.nan, X, LOW, HIGH)
