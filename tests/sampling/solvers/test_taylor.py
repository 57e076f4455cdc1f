"""Test Taylor steps: their functions phi, the weights of differences, schedules of steps, and UniPC."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edmfast import sampling
from edmfast.sampling.engine import Machine, plan_of
from edmfast.sampling.solvers import (
    Derivative,
    DPMSolverMultistep,
    Euler,
    TaylorSchedule,
    TaylorStep,
    UniPC,
)
from edmfast.sampling.solvers.shared.phi import phi
from edmfast.sampling.solvers.shared.taylor import difference_weights
from tests.sampling.solvers.problem import karras, mixture, slope, solved, start


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("z", [-30.0, -2.0, -0.99, -1e-9, 0.0, 1e-5, 0.7, 3.0, 12.0])
def test_phi_is_its_integral(k, z):
    # phi_k(z) = int_0^1 exp((1 - t) z) t^(k-1) / (k-1)! dt
    nodes, weights = np.polynomial.legendre.leggauss(60)
    t = (nodes + 1) / 2
    want = (weights / 2 * np.exp((1 - t) * z) * t ** (k - 1) / math.factorial(k - 1)).sum()
    assert phi(k, z) == pytest.approx(want, rel=1e-11)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_difference_weights_are_exact_for_polynomials(order):
    gaps = [-0.4, -1.1, 0.9]
    for power in range(1, 4):
        weights = difference_weights(gaps, order)
        got = sum(weight * gap**power for weight, gap in zip(weights, gaps, strict=True))
        want = math.factorial(order) if power == order else 0.0
        assert got == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("prediction", ["epsilon", "denoised"])
@pytest.mark.parametrize("form", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_has_its_order(order, form, prediction):
    predictor = UniPC(order, form, prediction, corrector=False, lower_order_final=False)
    # The first steps have lower orders, which shows on finer grids.
    assert slope(predictor, 32, 128) == pytest.approx(order, abs=0.15)
    corrected = UniPC(order, form, prediction, lower_order_final=False)
    assert slope(corrected, 64, 256) > order + 1 - 0.1


@pytest.mark.parametrize("prediction", ["epsilon", "denoised"])
def test_unipc_contains_other_solvers(prediction):
    def same(solver, other):
        torch.testing.assert_close(solved(solver, 20), solved(other, 20), rtol=1e-11, atol=1e-12)

    # Order 1 without a corrector is DDIM, which is Euler's method in these variables.
    same(UniPC(1, "bh2", prediction, corrector=False), Euler())
    second = UniPC(2, "bh2", prediction, corrector=False)
    same(second, DPMSolverMultistep(2, prediction, euler_at_final=True))


def test_unipc_that_skips_every_correction_is_its_predictor():
    skipped = UniPC(3, skip_corrector=tuple(range(20)))
    got, want = solved(skipped, 20), solved(UniPC(3, corrector=False), 20)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_a_corrector_costs_no_call():
    levels = []

    def model(x, sigma):
        levels.append(float(sigma[0]))
        return mixture(x, sigma)

    grid = torch.cat([karras(9), karras(1)[:1] * 0])
    sampling.sample(model, start(4), grid, UniPC(3), disable=True)
    assert levels == pytest.approx(karras(9).tolist())


def test_a_state_that_took_another_register_can_be_computed_again():
    # A model may have changed it in place, and without this the engine must copy it for every call.
    machine = Machine(plan_of(UniPC(), tuple(karras(4).tolist())), start(4))
    assert machine.again() is None
    for _ in range(4):
        call = machine.next_call()
        machine.feed(mixture(machine.registers["x"], call.sigma))
        if machine.next_call() is not None:
            again = machine.again()
            assert again is not None
            assert torch.equal(again(), machine.registers["x"])


@pytest.mark.parametrize("solver", [UniPC(), UniPC(prediction="epsilon"), DPMSolverMultistep(3)])
def test_a_model_that_changes_its_input_changes_no_result(solver):
    def model(x, sigma):
        denoised = mixture(x, sigma)
        x.zero_()
        return denoised

    got = sampling.sample(model, start(4), karras(6), solver, disable=True)
    want = sampling.sample(mixture, start(4), karras(6), solver, disable=True)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def predicted(point, kind):
    sigma, state, denoised = point
    return (state - denoised) / sigma if kind == "epsilon" else denoised


def moved(base, origin, points, end, kind, rules):
    """Return a Taylor step in plain tensors, one rule after the other."""
    h = math.log(origin[0] / end)
    z, scale = (h, -end) if kind == "epsilon" else (-h, 1.0)
    now = predicted(origin, kind)
    out = base * (1.0 if kind == "epsilon" else end / origin[0]) + scale * h * phi(1, z) * now
    for k, rule in enumerate(rules, 1):
        chosen = [points[p] for p in rule.points]
        gaps = np.array([math.log(origin[0] / p[0]) for p in chosen])
        rows = np.array([gaps**i / math.factorial(i) for i in range(1, len(gaps) + 1)])
        weights = np.linalg.solve(rows, np.eye(len(gaps))[k - 1])
        changes = [w * (predicted(p, kind) - now) for w, p in zip(weights, chosen, strict=True)]
        factors = {
            "exact": 1.0,
            "factor": rule.value,
            "linear": 1 + rule.value * h,
            "expm1": 1 + rule.value * math.expm1(h),
        }
        out = out + scale * h ** (k + 1) * phi(k + 1, z) * factors[rule.rule] * sum(changes)
    return out


def reference(levels, kinds, x, start_at_zero):
    """Return the end of a schedule, with the whole history of states in plain tensors."""
    history, base = [], x
    for i, kind in enumerate(kinds):
        zero = start_at_zero and i == 0
        history.append((levels[i], x, torch.zeros_like(x) if zero else mixture(x, levels[i])))
        if i and kinds[i - 1].corrector is not None:
            points = {-1: history[-1], **{k: history[-2 - k] for k in range(1, i)}}
            last = kinds[i - 1]
            x = moved(base, history[-2], points, levels[i], last.prediction, last.corrector)
        base = x
        points = {k: history[-1 - k] for k in range(1, i + 1)}
        x = moved(x, history[-1], points, levels[i + 1], kind.prediction, kind.derivatives)
    return x


@pytest.mark.parametrize("start_at_zero", [False, True])
def test_a_schedule_of_mixed_steps(start_at_zero):
    two, three = Derivative((1, 2)), Derivative((1, 2, 3))
    corrector = (Derivative((-1, 1, 2, 3)),) * 4
    kinds = (
        TaylorStep("epsilon", (), (Derivative((-1,)),)),
        TaylorStep("denoised", (Derivative((1,), "linear", -0.4),), (Derivative((-1, 1)),) * 2),
        TaylorStep("epsilon", (Derivative((2,), "expm1", 0.1), two), None),
        TaylorStep("epsilon", (three, three, Derivative((1, 2, 3), "factor", 0.5))),
        # These corrections read more tensors than one pass can.
        TaylorStep("epsilon", (three,) * 3, corrector),
        TaylorStep("denoised", (Derivative((1,)), two, three), corrector),
        TaylorStep("denoised", (Derivative((2,)),)),
    )
    grid = karras(7, 4.0, 0.3)
    solver = TaylorSchedule(kinds, start_at_zero)
    got = sampling.sample(mixture, start(8), grid, solver, disable=True)
    want = reference(grid.tolist(), kinds, start(8), start_at_zero)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


def test_a_start_at_zero_saves_the_first_call():
    levels = []

    def model(x, sigma):
        levels.append(float(sigma[0]))
        return mixture(x, sigma)

    kinds = (TaylorStep("epsilon"), TaylorStep("epsilon", (Derivative((1,)),)), TaylorStep())
    grid = torch.tensor([5.0, 2.0, 1.0, 0.0])
    sampling.sample(model, start(4), grid, TaylorSchedule(kinds, True), disable=True)
    assert levels == [2.0, 1.0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TaylorStep("noise"), "prediction must be one of"),
        (lambda: TaylorStep("epsilon", (Derivative((-1,)),)), "points must be among 1, 2, ..."),
        (lambda: TaylorStep("epsilon", (Derivative((1,)), Derivative((1,)))), "needs 2 different"),
        (lambda: TaylorStep("epsilon", (Derivative((1, 1)),)), "different points"),
        (lambda: TaylorStep(derivatives=(Derivative((1,)), Derivative((1, 2), "bh1"))), "first"),
        (lambda: TaylorStep(derivatives=(Derivative((1,), "shifted"),)), "second derivative"),
        (lambda: Derivative((1,), "cubic"), "rule must be one of"),
        (lambda: Derivative((1,), "linear", math.nan), "value must be"),
        (lambda: solved(TaylorSchedule((TaylorStep(),)), 2), "one entry for each of the 2 steps"),
        (lambda: solved(TaylorSchedule((TaylorStep(),), True), 1), "at least 2 steps"),
        (
            lambda: solved(TaylorSchedule((TaylorStep("epsilon", (Derivative((1,)),)),)), 1),
            "a rule at step 0 uses point 1",
        ),
        (lambda: UniPC(7), "order must be"),
        (lambda: UniPC(skip_corrector=(-1,)), "skip_corrector must be"),
        (lambda: UniPC(form="bh3"), "form must be one of"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
