"""Test the probability flow and the SDEs: orders, laws, both directions, and noise by sample."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from edmfast import analytic
from edmfast.interpolants import (
    GaussianMixtureInterpolant,
    Interpolant,
    InterpolantModel,
    OneSidedModel,
    from_velocity,
    solve_ode,
    solve_sde,
)
from tests.interpolants.two_mixtures import BASE, DATA, VARIANCE

MIXTURE = GaussianMixtureInterpolant(BASE, DATA)
START = torch.linspace(-5, 5, 12, dtype=torch.float64)[:, None]


def fourth_moment(mixture):
    """Return E[x^4] of a mixture in one dimension, whose mean is 0."""
    m, v = mixture.means[:, 0], mixture.stds.square()
    return float(mixture.weights @ (m**4 + 6 * m**2 * v + 3 * v**2))


def check_law(x, sides, variance, fourth, slack=1.0):
    """Check the masses between the modes, and the variance, to 4.5 standard errors times a slack."""
    n = len(x)
    edges = [-math.inf, *sides, math.inf]
    mass = 1 / (len(edges) - 1)
    for low, high in itertools.pairwise(edges):
        share = float(((x > low) & (x <= high)).double().mean())
        assert abs(share - mass) < 4.5 * slack * math.sqrt(mass * (1 - mass) / n)
    error = math.sqrt((fourth - variance**2) / n)
    assert abs(float(x.square().mean()) - variance) < 4.5 * slack * error


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_methods_of_the_flow_have_their_orders(method, order):
    steps = (320, 640) if method == "euler" else (160, 320)

    def end(n, method):
        # float32 times would limit the fourth order.
        times = torch.linspace(0.1, 0.9, n + 1, dtype=torch.float64)
        return solve_ode(MIXTURE, START, times, method=method, disable=True)

    truth = end(1600, "rk4")
    errors = [float((end(n, method) - truth).square().mean().sqrt()) for n in steps]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.06)


def test_the_flow_returns_to_its_start():
    def error(n):
        times = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        end = solve_ode(MIXTURE, START, times, method="rk4", disable=True)
        back = solve_ode(MIXTURE, end, times.flip(0), method="rk4", disable=True)
        return float((back - START).abs().max())

    # The errors of order 4 of both ways cancel, and those of order 5 remain.
    assert error(400) < 5e-6
    assert math.log2(error(200) / error(400)) == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("epsilon", [None, 1.0, 5.0], ids=["ode", "1", "5"])
def test_every_epsilon_gives_the_masses_and_the_variance(epsilon):
    x = MIXTURE.sample(4000, 0.0, seed=11)
    times = torch.linspace(0, 1, 101)
    if epsilon is None:
        x = solve_ode(MIXTURE, x, times, disable=True)
    else:
        x = solve_sde(MIXTURE, x, times, epsilon=epsilon, seed=5, disable=True)
    check_law(x, [-3, 3], VARIANCE, fourth_moment(DATA))
    assert pytest.approx(24.4433, abs=5e-5) == VARIANCE


@pytest.mark.slow
@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("epsilon", [1.0, 5.0, lambda t: 4 * t * (1 - t)], ids=["1", "5", "of-t"])
def test_many_samples_have_the_law(epsilon, method):
    x = MIXTURE.sample(30_000, 0.0, seed=12)
    steps = 500 if method == "euler" else 200
    x = solve_sde(
        MIXTURE, x, torch.linspace(0, 1, steps + 1), epsilon=epsilon, method=method, seed=6
    )
    check_law(x, [-3, 3], VARIANCE, fourth_moment(DATA))


def test_sdes_run_backward():
    x = MIXTURE.sample(4000, 1.0, seed=13)
    x = solve_sde(MIXTURE, x, torch.linspace(1, 0, 101), epsilon=2.0, seed=7, disable=True)
    check_law(x, [0], 9.25, fourth_moment(BASE))


def test_heun_has_weak_order_two():
    """On a Gaussian the variance after n steps follows a recursion, whose error is that of the method."""
    interpolant = GaussianMixtureInterpolant(
        analytic.GaussianMixture([[0.0]], [2.0]), analytic.GaussianMixture([[0.0]], [0.5])
    )

    def force(t):
        # b + epsilon s is linear in x here, and this is its factor
        drift, score = interpolant.drift_and_score(torch.ones(1, 1, dtype=torch.float64), t)
        return float(drift + 1.5 * score)

    def spread(n):
        """Return the variance at t = 1 of Heun's method, by the formula of its step and by the solver itself."""
        variance, h = 4.0, 1 / n
        for i in range(n):
            f, g = force(i * h), force((i + 1) * h)
            gain = 1 + h / 2 * (f + g * (1 + h * f))
            noise = (1 + h / 2 * g) * math.sqrt(2 * 1.5 * h)
            variance = gain**2 * variance + noise**2
        return variance

    errors = [abs(spread(n) - 0.25) for n in (160, 320, 640)]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert slopes == pytest.approx([2, 2], abs=0.05)
    x = 2 * torch.randn(40_000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times = torch.linspace(0, 1, 21, dtype=torch.float64)
    end = solve_sde(interpolant, x, times, epsilon=1.5, seed=2, disable=True)
    predicted = spread(20)
    assert abs(float(end.square().mean()) / predicted - 1) < 4.5 * math.sqrt(2 / len(x))


def test_a_step_is_the_formula():
    h, epsilon = 0.25, 0.8
    calls = []

    def drift(x, t):
        calls.append(t)
        return torch.sin(x) * (1 + t[:, None])

    model = InterpolantModel(Interpolant(), drift=drift, score=lambda x, t: -x * (1 + t[:, None]))
    x = START.clone()

    def force(x, t, sign):
        return torch.sin(x) * (1 + t) + sign * epsilon * -x * (1 + t)

    for sign, times in ((1, [0.5, 0.75]), (-1, [0.75, 0.5])):
        shift = sign * h
        euler = solve_sde(model, x, times, epsilon=epsilon, method="euler", seed=3)
        still = InterpolantModel(Interpolant(), drift=lambda x, t: 0 * x, score=lambda x, t: 0 * x)
        noise = solve_sde(still, x, times, epsilon=epsilon, method="euler", seed=3) - x
        slope = force(x, times[0], sign)
        torch.testing.assert_close(euler, x + shift * slope + noise)
        heun = solve_sde(model, x, times, epsilon=epsilon, seed=3)
        end = force(x + shift * slope + noise, times[1], sign)
        torch.testing.assert_close(heun, x + shift / 2 * (slope + end) + noise)
        # the noise has the variance 2 epsilon h
        wide = solve_sde(still, x.expand(-1, 4000), times, epsilon=epsilon, seed=3) - x
        assert float(wide.var()) == pytest.approx(2 * epsilon * h, rel=0.03)
    assert len({float(t[0]) for t in calls}) == 2


def test_no_diffusion_is_the_flow():
    times = torch.linspace(0, 1, 9)
    # a score that is not defined is not asked for
    model = InterpolantModel(Interpolant(), drift=MIXTURE.drift, noise=lambda x, t: 1 / 0)
    sde = solve_sde(model, START, times, epsilon=0, seed=0, disable=True)
    torch.testing.assert_close(sde, solve_ode(MIXTURE, START, times, disable=True))


def test_noise_depends_on_the_sample_alone():
    times = torch.linspace(0, 1, 6)
    x = torch.randn(6, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    whole = solve_sde(MIXTURE, x, times, seed=9, disable=True)
    parts = [
        solve_sde(MIXTURE, x[k : k + 2], times, seed=9, first_sample=k, disable=True)
        for k in (0, 2, 4)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
    seeds = [3, 2**64 - 1, 5, 5, -7, 0]
    own = solve_sde(MIXTURE, x, times, seed=seeds, disable=True)
    for spelling in (np.array([3, 5]), torch.tensor([3, 5])):
        two = solve_sde(MIXTURE, x[[0, 3]], times, seed=spelling, disable=True)
        torch.testing.assert_close(two, own[[0, 3]], rtol=1e-12, atol=1e-12)
    alone = solve_sde(MIXTURE, x[4:5], times, seed=-7, disable=True)
    torch.testing.assert_close(alone, own[4:5], rtol=1e-12, atol=1e-12)
    torch.manual_seed(1)
    first = solve_sde(MIXTURE, x, times, disable=True)
    torch.manual_seed(1)
    assert torch.equal(first, solve_sde(MIXTURE, x, times, disable=True))
    assert not torch.equal(first, solve_sde(MIXTURE, x, times, disable=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_has_the_same_bits_in_every_batch(dtype):
    model = InterpolantModel(Interpolant(), drift=lambda x, t: x.sin(), noise=lambda x, t: x.cos())
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(4)).to(dtype)
    times, seeds = torch.linspace(0.1, 0.9, 6), [7, 1, 2, 7, 3]
    whole = solve_sde(model, x, times, seed=seeds, disable=True)
    for k, seed in enumerate(seeds):
        alone = solve_sde(model, x[k : k + 1], times, seed=seed, disable=True)
        assert torch.equal(alone[0], whole[k])


@pytest.mark.parametrize("epsilon", [None, 1.5], ids=["ode", "sde"])
def test_a_denoiser_runs_through_both(epsilon):
    """A denoiser that is made of a velocity network carries noise to a mixture."""
    data = analytic.GaussianMixture([[-2.0], [2.0]], [0.3, 0.3])
    exact = GaussianMixtureInterpolant(None, data, Interpolant("one-sided-linear"))
    model = OneSidedModel(from_velocity(exact.drift), sigma_max=1e4)
    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    if epsilon is None:
        x = solve_ode(model, x, torch.linspace(0, 1, 61), disable=True)
    else:
        times = torch.linspace(0, 1 - 1e-4, 201)
        # the score of the data's end has a width of .3, so that the diffusion ends with the noise
        x = solve_sde(model, x, times, epsilon=lambda t: epsilon * (1 - t), seed=8, disable=True)
    check_law(x, [0], 4.09, fourth_moment(data))


def test_a_velocity_network_and_conditions():
    seen = []

    def velocity(x, t, label):
        return x * label

    def callback(state):
        seen.append((state["i"], state["t"], sorted(state)))

    end = solve_ode(
        velocity, START, [0, 0.5, 1], method="euler", extra_args={"label": 2}, callback=callback
    )
    torch.testing.assert_close(end, 4 * START)
    assert seen == [(0, 0.0, ["drift", "i", "t", "x"]), (1, 0.5, ["drift", "i", "t", "x"])]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="times must increase strictly or decrease"):
        solve_ode(MIXTURE, START, [0, 0.5, 0.5])
    with pytest.raises(ValueError, match=r"times\[1\] must be"):
        solve_ode(MIXTURE, START, [0, 1.5])
    with pytest.raises(ValueError, match="times must be at least two"):
        solve_ode(MIXTURE, START, [0.5])
    with pytest.raises(TypeError, match="times must be a tensor or a sequence"):
        solve_ode(MIXTURE, START, 10)
    with pytest.raises(ValueError, match=r"method must be one of.*rk4"):
        solve_ode(MIXTURE, START, [0, 1], method="midpoint")
    with pytest.raises(ValueError, match=r"method must be one of.*heun"):
        solve_sde(MIXTURE, START, [0, 1], method="rk4")
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        solve_ode(MIXTURE, START.long(), [0, 1])
    with pytest.raises(ValueError, match="x must be finite"):
        solve_ode(MIXTURE, START / 0, [0, 1])
    with pytest.raises(TypeError, match=r"model must have drift.*drift_and_score.*given function"):
        solve_sde(lambda x, t: x, START, [0, 1])
    with pytest.raises(TypeError, match="model must have drift"):
        solve_ode(3, START, [0, 1])
    with pytest.raises(ValueError, match=r"epsilon\(0.5\) must be"):
        solve_sde(MIXTURE, START, [0.5, 1], epsilon=lambda t: -t)
    pair = InterpolantModel(Interpolant(), drift=MIXTURE.drift, noise=MIXTURE.noise)
    for times in ([0, 0.5], [0.5, 1]):
        with pytest.raises(ValueError, match="divides by gamma = 0"):
            solve_sde(pair, START, times, seed=0)
    with pytest.warns(RuntimeWarning, match="1 of 12 samples are not finite"):
        solve_ode(lambda x, t: torch.where(x == START[3], math.nan, x), START, [0, 1])
