"""Mistakes in a solver raise errors that name the solver, the step and the register or value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from edmfast import sampling
from edmfast.sampling.engine import Call, Combine, Solver, Step, plan_of, register

X, D, DD = register("x"), register("D"), register("DD")
LEVELS = (2.0, 1.0, 0.5)


@dataclass(frozen=True)
class Own(Solver):
    """A solver whose second step is made of the formulas under test."""

    second: Callable[[float], Step]
    slope_first: bool = False

    def steps(self, levels):
        yield Step(levels[0], (Call(levels[0]), Combine("x", D)))
        yield self.second(levels[1])


def combined(value, **options):
    return lambda s: Step(
        s, (Call(s), Combine("x", value() if callable(value) else value, **options))
    )


TYPE_ERRORS = {
    "a float is added": (
        combined(lambda: X + 1.0),
        r"step 1 of Own: .*both sides of \+, got a float 1.0",
    ),
    "a float is added to": (combined(lambda: 1.0 + X), r"step 1 of Own: .*\+, got a float 1.0"),
    "a float is subtracted": (combined(lambda: X - 2), r"step 1 of Own: .*-, got a int 2"),
    "a float is subtracted from": (combined(lambda: 2 - X), r"step 1 of Own: .*-, got a int 2"),
    "registers multiplied": (
        combined(lambda: X * D),
        r"step 1 of Own: .*\* takes a float, got a formula in D",
    ),
    "registers divided": (
        combined(lambda: X / D),
        r"step 1 of Own: .*/ takes a float, got a formula in D",
    ),
    "a tensor times": (combined(lambda: torch.ones(2) * X), "step 1 of Own: .*float, got a Tensor"),
    "an array times": (combined(lambda: np.ones(2) * X), "step 1 of Own: .*float, got a ndarray"),
    "work is no tuple": (
        lambda s: Step(s, Call(s)),
        "work of step 1 of Own must be a tuple .*got a Call",
    ),
    "work is no work": (lambda s: Step(s, (X,)), "Calls and Combines, got a Expression"),
    "no formula": (combined("D"), "formula of 'x' in step 1 of Own .*got a str"),
    "no step": (lambda s: Call(s), "step 1 of Own must be a Step, got a Call"),
}
VALUE_ERRORS = {
    "divided by 0": (combined(lambda: X / 0), "step 1 of Own cannot be computed.* in x is divided by 0"),
    "log of 0": (combined(lambda: math.log(0) * X), "step 1 of Own cannot be computed"),
    "out of range": (combined(lambda: math.sqrt(-1) * X), "step 1 of Own cannot be computed"),
    "nan": (combined(math.nan * D), "coefficient of 'D' in the formula of 'x' in step 1 of Own .*got nan"),
    "infinite": (combined(math.inf * D), "coefficient of 'D' .*step 1 of Own must be finite, got inf"),
    "noise": (combined(D, noise=math.nan), "noise of 'x' in step 1 of Own must be finite, got nan"),
    "level": (lambda s: Step(s, (Call(math.nan),)), "level of a Call in step 1 of Own .*got nan"),
    "unknown": (combined(X + DD), "step 1 of Own reads the register 'DD', .*there are D, x"),
    "unknown state": (lambda s: Step(s, (Call(s, "y"),)), "a Call in step 1 of Own reads the register 'y'"),
    "unknown kept": (lambda s: Step(s, (Call(s),), (("D1", "E"),)), "keep for 'D1' in step 1 .*'E'"),
}  # fmt: skip


@pytest.mark.parametrize("case", TYPE_ERRORS)
def test_mistakes_of_type(case):
    second, message = TYPE_ERRORS[case]
    with pytest.raises(TypeError, match=message):
        plan_of(Own(second), LEVELS)


@pytest.mark.parametrize("case", VALUE_ERRORS)
def test_mistakes_of_value(case):
    second, message = VALUE_ERRORS[case]
    with pytest.raises(ValueError, match=message):
        plan_of(Own(second), LEVELS)


def test_numbers_of_numpy_are_floats():
    assert (np.float64(2) * X).terms == {"x": 2.0}
    assert (X / np.float32(2)).terms == {"x": 0.5}


def test_a_solver_that_is_not_hashable():
    @dataclass
    class Unfrozen(Solver):
        order: int = 1

    with pytest.raises(TypeError, match=r"Unfrozen must be hashable, .*frozen dataclass"):
        sampling.sample(lambda x, sigma: x, torch.ones(1, 1), torch.tensor(LEVELS), Unfrozen())


def test_states_and_slopes_are_recognised():
    scaled = combined(0.5 * X)
    plan_of(Own(scaled), LEVELS)
    with pytest.raises(ValueError, match=r"formula of 'x' in step 1 of Own is neither .*got 0.5"):
        plan_of(Own(scaled, slope_first=True), LEVELS)

    def with_a_slope(s):
        slope = Combine("slope", (X - D) / s)
        return Step(s, (Call(s), slope, Combine("x", X - 0.25 * register("slope"))))

    assert len(plan_of(Own(with_a_slope, slope_first=True), LEVELS).steps) == 2
