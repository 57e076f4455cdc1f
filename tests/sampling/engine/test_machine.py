"""The machine executes plans: registers, renaming, draws in their order, and stops at calls."""

from __future__ import annotations

import pytest
import torch

from edmfast.sampling.engine import (
    Call,
    Combine,
    Machine,
    Plan,
    Solver,
    Step,
    plan_of,
    register,
    requests_of,
)
from edmfast.sampling.engine.draws import draws_from_function
from edmfast.sampling.engine.machine import prepared

X, D, D1, E = (register(name) for name in ("x", "D", "D1", "E"))


def states(value=1.0):
    return torch.full((2, 3), value, dtype=torch.float64)


def test_expressions_follow_the_rules_of_algebra():
    slope = (X - D) / 2.0
    value = X + 3.0 * slope - (-D) * 0.5
    assert value.terms == {"x": 2.5, "D": -1.0}
    assert (X - X).terms == {"x": 0.0}
    assert (slope * 2.0).terms == (2.0 * slope).terms == {"x": 1.0, "D": -1.0}


def test_registers_are_renamed_all_at_once_and_others_are_dropped():
    keep = (("D1", "D"), ("D2", "D1"))
    steps = [Step(s, (Call(s), Combine("x", X + D)), keep) for s in (3.0, 2.0)]
    steps[0] = Step(3.0, (Call(3.0), Combine("D1", 2.0 * D), Combine("x", X + D)), keep)
    machine = Machine(Plan(tuple(steps)), states())
    assert machine.next_call() == Call(3.0, kept=True)
    machine.feed(states(5.0))
    assert machine.step == 1
    assert {name: float(t[0, 0]) for name, t in machine.registers.items()} == {
        "x": 6.0,
        "D1": 5.0,
        "D2": 10.0,
    }
    machine.next_call()
    machine.feed(states(7.0))
    assert machine.next_call() is None
    assert float(machine.registers["x"][0, 0]) == 13.0
    assert float(machine.registers["D2"][0, 0]) == 5.0


def test_nothing_of_the_next_step_happens_before_its_call_is_asked_for():
    raise_noise = Combine("x", X, noise=2.0, interval=(2.0, 1.0))
    plan = Plan(
        (
            Step(3.0, (Call(3.0), Combine("x", D))),
            Step(2.0, (raise_noise, Call(2.0), Combine("x", D))),
        )
    )
    asked = []

    def noise(*levels):
        asked.append([float(level) for level in levels])
        return states(1.0)

    machine = Machine(plan, states(), draws_from_function(noise, requests_of(plan), states()))
    machine.next_call()
    machine.feed(states(4.0))
    assert asked == []
    machine.registers["x"] = states(10.0)
    machine.next_call()
    assert asked == [[2.0, 1.0]]
    assert float(machine.registers["x"][0, 0]) == 12.0


def test_what_is_read_after_another_call_is_kept():
    work = (Call(2.0), Combine("end", X + D), Call(1.0, "end", "E"), Combine("x", D + E))
    plan = Plan((Step(2.0, work), Step(1.0, (Call(1.0), Combine("x", D)), (("D1", "D"),))))
    kept = [item.kept for item in prepared(plan, torch.device("cpu")) if isinstance(item, Call)]
    assert kept == [True, False, True]


def test_a_threshold_changes_what_is_fed():
    plan = Plan((Step(1.0, (Call(1.0), Combine("x", D))),))
    machine = Machine(plan, states(), threshold=lambda denoised: denoised.clamp(max=2.0))
    machine.next_call()
    machine.feed(states(5.0))
    assert torch.equal(machine.registers["x"], states(2.0))


def test_a_plan_is_made_once_for_each_grid():
    made = []

    class Counting(Solver):
        def steps(self, levels):
            made.append(levels)
            yield Step(levels[0], (Call(levels[0]), Combine("x", D)))

    solver = Counting()
    first = plan_of(solver, (2.0, 1.0))
    assert plan_of(solver, (2.0, 1.0)) is first
    assert plan_of(solver, (3.0, 1.0)) is not first
    assert made == [(2.0, 1.0), (3.0, 1.0)]


def test_a_solver_without_steps_says_so():
    with pytest.raises(NotImplementedError):
        plan_of(Solver(), (1.0, 0.0))


def test_a_machine_refuses_states_that_no_call_waits_for():
    plan = Plan((Step(1.0, (Combine("x", 2.0 * X), Call(1.0), Combine("x", D))),))
    machine = Machine(plan, states())
    with pytest.raises(RuntimeError, match="next_call has returned, and none is pending"):
        machine.feed(states(5.0))
    machine.next_call()
    machine.feed(states(5.0))
    with pytest.raises(RuntimeError, match="none is pending"):
        machine.feed(states(5.0))
    assert torch.equal(machine.registers["x"], states(5.0))
