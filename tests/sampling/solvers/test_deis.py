"""Test DEIS and the Runge–Kutta methods in sigma: known coefficients, gains and orders, and equal samplers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edmfast import sampling
from edmfast.sampling.solvers import DEIS, Euler, RhoRungeKutta
from edmfast.sampling.solvers.deis import slope_weights
from edmfast.sampling.solvers.rho_runge_kutta import TABLEAUX
from tests.sampling.solvers.problem import karras, mixture, normal, slope, solved, start


def times(n, spacing="time_quadratic"):
    """Return levels of the linear schedule beta 0.1 to 20 in float64, from t = 1 to 0.001, and their alphas."""
    schedule = sampling.LinearVP()
    if spacing == "logsnr":
        ends = schedule.sigma(torch.tensor([1.0, 1e-3], dtype=torch.float64)).log()
        levels = torch.linspace(*ends.tolist(), n, dtype=torch.float64).exp()
    else:
        grid = torch.linspace(1, math.sqrt(1e-3), n, dtype=torch.float64) ** 2
        levels = schedule.sigma(grid)
    return levels, 1 / torch.sqrt(1 + levels**2)


def test_coefficients_of_the_first_step():
    levels, alpha = times(11)
    assert (alpha[1] / alpha[0]).item() == pytest.approx(5.333456702, abs=5e-10)
    (weight,) = slope_weights(levels[:1].tolist(), levels[1].item(), "time", sampling.LinearVP())
    assert (alpha[1] * weight).item() == pytest.approx(-4.333955951, abs=1e-9)


def test_coefficients_of_a_step_of_order_four():
    levels, alpha = times(11)
    assert (alpha[4] / alpha[3]).item() == pytest.approx(1.761396811, abs=5e-10)
    nodes = levels[:4].flip(0).tolist()
    weights = slope_weights(nodes, levels[4].item(), "time", sampling.LinearVP())
    got = (alpha[4] * torch.tensor(weights, dtype=torch.float64)).tolist()
    assert got == pytest.approx([-1.53873339, 1.22367395, -0.63281967, 0.12856644], abs=5e-9)


def gain(order, n=11, spacing="time_quadratic"):
    levels, alpha = times(n, spacing)
    x = torch.ones(1, 1, dtype=torch.float64) / alpha[0]
    end = sampling.sample(normal, x, levels, DEIS(order), disable=True)
    return (alpha[-1] * end).item()


def true_gain(n=11, spacing="time_quadratic"):
    levels, alpha = times(n, spacing)
    stds = alpha * torch.sqrt(0.25 + levels**2)
    return (stds[-1] / stds[0]).item()


def test_gains_on_a_gaussian():
    got = [gain(order) for order in (1, 2, 3, 4)]
    want = [0.4259787031, 0.4712661157, 0.4860989904, 0.4922946683]
    assert got == pytest.approx(want, abs=5e-11)
    assert true_gain() == pytest.approx(0.5000905500, abs=5e-11)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_measured_order_in_time(order):
    errors = [abs(gain(order, n, "logsnr") - true_gain(n, "logsnr")) for n in (161, 321)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (DEIS(1, "rho"), 1.0),
        (DEIS(2, "rho"), 1.96),
        (DEIS(3, "rho"), 2.92),
        (DEIS(4, "rho"), 3.7),
        (DEIS(2, "log_rho"), 1.95),
        (DEIS(3, "log_rho"), 3.03),
        (RhoRungeKutta("euler"), 1.0),
        (RhoRungeKutta("heun2"), 2.0),
        (RhoRungeKutta("kutta3"), 3.1),
        (RhoRungeKutta("ralston3"), 3.0),
        (RhoRungeKutta("heun3"), 3.0),
        (RhoRungeKutta("van_der_houwen3"), 3.0),
        (RhoRungeKutta("ssprk3"), 3.0),
        (RhoRungeKutta("rk4"), 4.0),
    ],
    ids=str,
)
def test_measured_order(solver, order):
    assert slope(solver) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("variable", ["time", "rho", "log_rho"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_weights_are_the_integrals_of_lagrange_polynomials(order, variable):
    # By Simpson's rule on a fine grid, which is another method than that of the solver.
    nodes, end = [3.0, 5.0, 9.0, 20.0][:order], 0.4
    schedule = sampling.LinearVP()

    def place(sigma):
        if variable == "time":
            return schedule.time(torch.as_tensor(sigma)).numpy()
        return np.log(sigma) if variable == "log_rho" else np.asarray(sigma)

    sigma = np.linspace(nodes[0], end, 2001)
    rule = np.tile([2.0, 4.0], 1001)[:2001]
    rule[[0, -1]] = 1
    got = slope_weights(nodes, end, variable, schedule)
    for j, node in enumerate(nodes):
        others = [place(other) for other in nodes[:j] + nodes[j + 1 :]]
        value = np.prod([(place(sigma) - o) / (place(node) - o) for o in others], axis=0)
        want = (rule * value).sum() * (end - nodes[0]) / 6000
        assert got[j] == pytest.approx(want, rel=1e-7)


def with_zero(n=9):
    return torch.cat([karras(n), karras(1)[:1] * 0])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_rho_is_the_linear_multistep_sampler(order):
    want = sampling.sample_lms(mixture, start(8), with_zero(), order=order, disable=True)
    got = sampling.sample(mixture, start(8), with_zero(), DEIS(order, "rho"), disable=True)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_first_orders_are_eulers_method():
    for solver in (*(DEIS(1, v) for v in ("time", "rho", "log_rho")), RhoRungeKutta("euler")):
        torch.testing.assert_close(solved(solver, 9), solved(Euler(), 9), rtol=1e-12, atol=1e-12)


def test_heun2_is_the_sampler_of_heun():
    want = sampling.sample_heun(mixture, start(8), with_zero(), disable=True)
    got = sampling.sample(mixture, start(8), with_zero(), RhoRungeKutta("heun2"), disable=True)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", TABLEAUX)
def test_tableaux_are_consistent(method):
    rows, weights = TABLEAUX[method]
    assert sum(weights) == pytest.approx(1)
    assert [len(row) for row in rows] == list(range(1, len(weights)))
    nodes = [0.0, *map(sum, rows)]
    if len(weights) > 1:
        assert sum(b * c for b, c in zip(weights, nodes, strict=True)) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    "solver",
    [DEIS(4), DEIS(3, "log_rho"), *(RhoRungeKutta(m) for m in ("kutta3", "rk4"))],
    ids=str,
)
def test_a_step_to_zero_ends_at_the_denoised_states(solver):
    seen = []
    got = sampling.sample(
        mixture,
        start(8),
        with_zero(),
        solver,
        callback=lambda info: seen.append(info["denoised"].clone()),
        disable=True,
    )
    torch.testing.assert_close(got, seen[-1], rtol=1e-14, atol=1e-14)


def test_lower_orders_at_the_end():
    orders = [
        len(step.work[-1].value.terms) // 2
        for step in DEIS(4, lower_order_final=True).steps(tuple(karras(8).tolist()))
    ]
    assert orders == [1, 2, 3, 4, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: DEIS(5), ValueError, "order must be"),
        (lambda: DEIS(2, "sigma"), ValueError, "variable must be one of"),
        (lambda: DEIS(2, schedule="linear"), TypeError, "schedule must be a VPSchedule"),
        (lambda: RhoRungeKutta("rk5"), ValueError, "method must be one of"),
    ],
)
def test_bad_settings_are_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()
