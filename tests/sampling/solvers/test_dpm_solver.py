"""Test DPM-Solver and DPM-Solver++: their published steps, measured orders, plans of orders and ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edmfast import sampling
from edmfast.sampling.solvers import (
    DPMSolverMultistep,
    DPMSolverPP2M,
    DPMSolverSinglestep,
    Euler,
    singlestep_orders,
)
from tests.sampling.solvers.problem import karras, mixture, normal, slope, solved, start

GRID = torch.tensor([5.0, 2.0, 0.9, 0.3], dtype=torch.float64)
LAST = [*GRID.tolist(), 0.0]


def run(solver, grid=GRID, model=mixture, **options):
    grid = torch.as_tensor(grid, dtype=torch.float64)
    return sampling.sample(model, start(8), grid, solver, disable=True, **options)


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (DPMSolverSinglestep(2, "epsilon"), 1.98),
        (DPMSolverSinglestep(3, "epsilon"), 2.95),
        (DPMSolverSinglestep(2), 1.93),
        (DPMSolverSinglestep(3), 2.90),
        (DPMSolverMultistep(1), 1.0),
        (DPMSolverMultistep(2), 1.95),
        (DPMSolverMultistep(2, solver_type="heun"), 2.0),
        (DPMSolverMultistep(2, "epsilon"), 2.0),
        (DPMSolverMultistep(3), 2.04),
        (DPMSolverMultistep("exact"), 3.01),
    ],
    ids=str,
)
def test_measured_order(solver, order):
    assert slope(solver) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("prediction", ["epsilon", "denoised"])
@pytest.mark.parametrize("order", [2, 3])
def test_a_singlestep_solver_over_the_grid_has_its_order(order, prediction):
    solver = DPMSolverSinglestep(order, prediction, nodes="grid", solver_type="heun")
    # 50 and 200 intervals leave two for the last step of the plan of order 3.
    assert slope(solver, 50, 200) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("order", [2, 3])
def test_singlestep_epsilon_is_the_published_step(order):
    sigma, end = 3.0, 0.8
    h = math.log(sigma / end)

    def at(r):
        return sigma * math.exp(-r * h)

    def eps(x, s):
        return (x - mixture(x, s)) / s

    x = start(8)
    e = eps(x, sigma)
    if order == 2:
        u = x - at(0.5) * math.expm1(0.5 * h) * e
        want = x - end * math.expm1(h) * e - end * math.expm1(h) * (eps(u, at(0.5)) - e)
    else:
        u1 = x - at(1 / 3) * math.expm1(h / 3) * e
        e1 = eps(u1, at(1 / 3))
        curve = 2 * (math.expm1(2 * h / 3) / (2 * h / 3) - 1)
        u2 = x - at(2 / 3) * math.expm1(2 * h / 3) * e - at(2 / 3) * curve * (e1 - e)
        e2 = eps(u2, at(2 / 3))
        want = x - end * math.expm1(h) * e - end * 1.5 * (math.expm1(h) / h - 1) * (e2 - e)
    got = run(DPMSolverSinglestep(order, "epsilon"), [sigma, end])
    torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("exact", [False, True])
def test_third_order_multistep_is_the_published_step(exact):
    s0, s1, s2, t = 0.9, 2.0, 5.0, 0.3
    h, h0, h1 = math.log(s0 / t), math.log(s1 / s0), math.log(s2 / s1)
    seen = {}

    def keep(info):
        seen[info["i"]] = (info["x"].clone(), info["denoised"].clone())

    solver = DPMSolverMultistep("exact" if exact else 3, lower_order_final=False)
    got = run(solver, callback=keep)
    (_, d2), (_, d1), (x, d0) = seen[0], seen[1], seen[2]
    a, b, r0, r1 = (d0 - d1) * h / h0, (d1 - d2) * h / h1, h0 / h, h1 / h
    first = a + r0 / (r0 + r1) * (a - b)
    second = (2 if exact else 1) * (a - b) / (r0 + r1)
    p1 = math.expm1(-h)
    p2 = p1 / h + 1
    p3 = p2 / h - 0.5
    want = t / s0 * x - p1 * d0 + p2 * first - p3 * second
    torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "solver",
    [
        DPMSolverMultistep(1),
        DPMSolverMultistep(1, "epsilon"),
        DPMSolverSinglestep(1),
        DPMSolverSinglestep(1, "epsilon"),
        DPMSolverSinglestep(1, nodes="grid"),
    ],
    ids=str,
)
def test_first_orders_are_eulers_method(solver):
    torch.testing.assert_close(solved(solver, 12), solved(Euler(), 12), rtol=1e-12, atol=1e-12)


def test_second_order_multistep_is_k_diffusions_sampler():
    want = sampling.sample_dpmpp_2m(
        mixture, start(8), torch.tensor(LAST, dtype=torch.float64), disable=True
    )
    for solver in (DPMSolverMultistep(2, lower_order_final=False), DPMSolverPP2M()):
        torch.testing.assert_close(run(solver, LAST), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction", ["epsilon", "denoised"])
@pytest.mark.parametrize(("order", "stages"), [(2, "exact"), (3, "exact"), (3, "midpoint")])
def test_a_step_over_the_grid_is_a_step_with_inner_levels(order, stages, prediction):
    # The levels are evenly spaced in lambda, so those of the grid are the inner levels.
    grid = 4 * 0.5 ** torch.arange(order + 1, dtype=torch.float64)
    inner = run(DPMSolverSinglestep(order, prediction, stages=stages), grid[[0, order]])
    over = DPMSolverSinglestep(order, prediction, "grid", stages=stages, orders=(order,))
    torch.testing.assert_close(run(over, grid), inner, rtol=1e-12, atol=1e-12)


def test_plans_of_orders():
    assert singlestep_orders(9, 3) == (3, 3, 2, 1)
    assert singlestep_orders(10, 3) == (3, 3, 3, 1)
    assert singlestep_orders(11, 3) == (3, 3, 3, 2)
    assert singlestep_orders(3, 3) == (2, 1)
    assert singlestep_orders(1, 3) == (1,)
    assert singlestep_orders(4, 2) == (2, 2)
    assert singlestep_orders(5, 2) == (2, 2, 1)
    assert singlestep_orders(3, 1) == (1, 1, 1)
    for calls in range(1, 30):
        assert sum(singlestep_orders(calls, 3)) == calls
        assert len(singlestep_orders(calls, 3)) == calls // 3 + 1


@pytest.mark.parametrize("calls", [6, 7, 8])
def test_a_plan_costs_its_calls(calls):
    counted = []

    def model(x, sigma):
        counted.append(float(sigma[0]))
        return mixture(x, sigma)

    orders = singlestep_orders(calls, 3)
    run(DPMSolverSinglestep(orders=orders), karras(len(orders)), model)
    assert len(counted) == calls
    counted.clear()
    run(DPMSolverSinglestep(3, nodes="grid"), karras(calls), model)
    assert counted == pytest.approx(karras(calls)[:-1].tolist())


def terms(solver, steps):
    """Return the number of tensors of each step's combination, which is its order and one more."""
    plan = solver.steps(tuple(karras(steps).tolist()))
    return [len(step.work[-1].value.terms) for step in plan]


@pytest.mark.parametrize("steps", [14, 15])
def test_the_last_steps_have_lower_orders_below_15_steps(steps):
    full = [2, 3] + [4] * (steps - 2)
    assert terms(DPMSolverMultistep(3, lower_order_final=False), steps) == full
    lowered = full if steps == 15 else [*full[:-2], 3, 2]
    assert terms(DPMSolverMultistep(3), steps) == lowered


def test_euler_at_final_lowers_the_last_order_alone():
    assert terms(DPMSolverMultistep(3, euler_at_final=True), 20)[-3:] == [4, 4, 2]


@pytest.mark.parametrize(
    "solver",
    [
        *[DPMSolverSinglestep(p, q) for p in (1, 2, 3) for q in ("epsilon", "denoised")],
        *[DPMSolverSinglestep(p, nodes="grid") for p in (1, 2, 3)],
        *[DPMSolverMultistep(p, lower_order_final=False) for p in (1, 2, 3, "exact")],
        DPMSolverMultistep(3, "epsilon", eta=1.0, lower_order_final=False),
    ],
    ids=str,
)
def test_a_step_to_zero_ends_at_the_denoised_states(solver):
    seen = []
    got = run(solver, LAST, callback=lambda info: seen.append(info["denoised"].clone()), seed=1)
    torch.testing.assert_close(got, seen[-1], rtol=0, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "denoised"])
@pytest.mark.parametrize("order", [1, 2, "exact"])
def test_the_reverse_sde_ends_with_the_variance_of_the_data(order, prediction):
    # Row k of the batch is the part of the state that comes from the k-th normal, because the
    # denoiser of N(0, 1/4) is linear: the sum of squares is the variance.
    steps = 200
    x = torch.zeros(steps + 1, 1, dtype=torch.float64)
    x[-1] = math.hypot(10.0, 0.5)
    draws = iter(torch.eye(steps + 1, dtype=torch.float64)[:, :, None])
    end = sampling.sample(
        normal,
        x,
        karras(steps, 10.0, 0.01),
        DPMSolverMultistep(order, prediction, eta=1.0),
        disable=True,
        noise_sampler=lambda *_: next(draws),
    )
    bound = 0.05 if order == 1 else 2e-3
    assert (end**2).sum().item() == pytest.approx(0.25 + 1e-4, rel=bound)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("order", "form"), [(2, "midpoint"), (2, "heun"), (3, "heun")])
def test_the_reverse_sde_is_k_diffusions_samplers(form, order, eta):
    options = {"eta": eta, "s_noise": 1.003, "seed": 4, "disable": True}
    grid = torch.tensor(LAST, dtype=torch.float64)
    if order == 2:
        want = sampling.sample_dpmpp_2m_sde(mixture, start(8), grid, solver_type=form, **options)
    else:
        want = sampling.sample_dpmpp_3m_sde(mixture, start(8), grid, **options)
    solver = DPMSolverMultistep(
        order, solver_type=form, eta=eta, s_noise=1.003, lower_order_final=False
    )
    torch.testing.assert_close(run(solver, LAST, seed=4), want, rtol=1e-11, atol=1e-12)


def test_the_noise_of_a_seed_is_one_path_at_every_number_of_steps():
    def end(steps, seed):
        return run(DPMSolverMultistep(2, eta=1.0), karras(steps), seed=seed)

    first = end(16, 1)
    assert (first - end(32, 1)).abs().mean() < 0.3 * (first - end(16, 2)).abs().mean()


def test_eta_and_rising_levels_are_refused_together():
    with pytest.raises(ValueError, match="eta must be 0 where sigmas increase"):
        run(DPMSolverMultistep(2, eta=1.0), GRID.flip(0), seed=0)
    assert torch.isfinite(run(DPMSolverMultistep(2), GRID.flip(0))).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DPMSolverMultistep(4), "order must be an integer"),
        (lambda: DPMSolverMultistep("third"), "order must be one of 'exact'"),
        (lambda: DPMSolverMultistep(2, "noise"), "prediction must be one of"),
        (lambda: DPMSolverMultistep(2, solver_type="bh1"), "solver_type must be one of"),
        (lambda: DPMSolverMultistep(2, eta=-1.0), "eta must be"),
        (lambda: DPMSolverSinglestep(3, eta=1.0), "eta must be 0 with nodes='inner'"),
        (lambda: DPMSolverSinglestep(2, shares=(0.5, 0.7)), "shares must be None or order - 1"),
        (lambda: DPMSolverSinglestep(3, shares=(0.7, 0.3)), "shares must rise"),
        (lambda: DPMSolverSinglestep(orders=(4,)), "orders must be an integer"),
        (lambda: run(DPMSolverSinglestep(orders=(3, 2))), "orders must have one entry"),
        (lambda: run(DPMSolverSinglestep(nodes="grid", orders=(3, 2))), "orders must sum to 3"),
        (lambda: singlestep_orders(0, 3), "calls must be"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_settings_are_accepted_in_every_spelling():
    assert DPMSolverMultistep(np.int64(2), eta=torch.tensor(1)) == DPMSolverMultistep(2, eta=1.0)
    assert DPMSolverSinglestep(orders=[np.int32(2)]) == DPMSolverSinglestep(orders=(2,))
    assert hash(DPMSolverSinglestep(2, shares=[np.float64(0.5)]))
