"""The plan of a solver over a grid, checked once, with errors that name the solver, the step and the register."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np

from edmfast.sampling.engine.expression import Expression
from edmfast.sampling.engine.plan import Call, Combine, Plan, Solver, Step

MOST_REGISTERS = 8


class NoStepError(ValueError):
    """An error that tells that a solver has no finite step over its levels."""


class Checked:
    """The check of one plan, which follows the registers that there are from step to step.

    name: the solver's class. slope_first: the moved start of a step enters its states, so that every register must
        be recognised as a state or a slope by the sum of its coefficients.
    """

    def __init__(self, name: str, slope_first: bool) -> None:
        self.name, self.slope_first = name, slope_first
        self.there, self.slopes = {"x"}, set[str]()
        self.place = ""

    def check(self, number: int, step: Any) -> None:
        """Raise TypeError or ValueError unless the engine can run step `number`, which follows those before."""
        self.place = f"step {number} of {self.name}"
        if not isinstance(step, Step):
            raise TypeError(f"{self.place} must be a Step, got a {type(step).__name__}")
        if not isinstance(step.work, (tuple, list)):
            raise TypeError(
                f"the work of {self.place} must be a tuple of Call and Combine, got a {type(step.work).__name__}: "
                "write (work,) for a single one"
            )
        self._finite("the level", step.sigma)
        for work in step.work:
            if isinstance(work, Call):
                self._finite("the level of a Call", work.sigma)
                self._known(work.state, "a Call")
                self.there.add(work.out)
                self.slopes.discard(work.out)
            else:
                self._combine(work)
        for new, old in step.keep:
            self._known(old, f"keep for {new!r}")
        self.slopes = {new for new, old in step.keep if old in self.slopes}
        self.there = {"x"} | {new for new, _ in step.keep}

    def _combine(self, work: Any) -> None:
        if not isinstance(work, Combine):
            raise TypeError(
                f"the work of {self.place} must be Calls and Combines, got a {type(work).__name__}"
            )
        formula = f"the formula of {work.out!r}"
        if not isinstance(work.value, Expression):
            raise TypeError(
                f'{formula} in {self.place} must be written with registers such as register("x"), got a '
                f"{type(work.value).__name__}"
            )
        terms = work.value.terms
        for name, coefficient in terms.items():
            # Texts for errors are made where there is one, because a grid has thousands of coefficients.
            if name not in self.there:
                self._known(name, formula)
            if type(coefficient) is not float or not math.isfinite(coefficient):
                self._finite(f"the coefficient of {name!r} in {formula}", coefficient)
        self._finite(f"the noise of {work.out!r}", work.noise)
        read = sum(value != 0 for value in terms.values())
        if not terms or read > MOST_REGISTERS:
            raise ValueError(
                f"{formula} in {self.place} must read 1 to {MOST_REGISTERS} registers, got {read}"
            )
        if self.slope_first:
            self._recognise(work.out, formula, terms)
        self.there.add(work.out)

    def _recognise(self, out: str, formula: str, terms: Mapping[str, float]) -> None:
        """Note whether a register holds states or a slope, and raise ValueError where it is neither."""
        total = sum(value for name, value in terms.items() if name not in self.slopes)
        # The error of rounding grows with the coefficients.
        tolerance = 1e-6 * max(1.0, *map(abs, terms.values()))
        if min(abs(total), abs(total - 1)) > tolerance:
            raise ValueError(
                f"{formula} in {self.place} is neither a state nor a slope: in a solver with slope_first "
                f"= True its coefficients of states must sum to 1 or 0, got {total:g}"
            )
        if round(total) == 0:
            self.slopes.add(out)
        else:
            self.slopes.discard(out)

    def _known(self, name: str, where: str) -> None:
        if name not in self.there:
            raise ValueError(
                f"{where} in {self.place} reads the register {name!r}, which is not there: there are "
                f"{', '.join(sorted(self.there))}"
            )

    def _finite(self, what: str, value: Any) -> None:
        if not isinstance(value, Real):
            raise TypeError(f"{what} in {self.place} must be a float, got a {type(value).__name__}")
        if not math.isfinite(value):
            raise NoStepError(f"{what} in {self.place} must be finite, got {value}")


def plan_of(solver: Solver, levels: tuple[float, ...]) -> Plan:
    """Return the plan of a solver over levels, which is kept for the next run over the same levels.

    Raises TypeError for a solver that is not hashable or has a mistake in its formulas. Raises ValueError where a
    formula reads an unknown register or has a coefficient that is not finite, and where a level is there twice and
    the solver has no finite step over such levels.
    """
    try:
        hash(solver)
    except TypeError as error:
        raise TypeError(
            f"{type(solver).__name__} must be hashable, because plans are kept by solver and grid: make it a "
            f"frozen dataclass whose fields are numbers, strings or tuples ({error})"
        ) from error
    return _plan_of(solver, levels)


@functools.lru_cache(maxsize=64)
def _plan_of(solver: Solver, levels: tuple[float, ...]) -> Plan:
    try:
        return Plan(tuple(_steps_of(solver, levels)), solver.slope_first)
    # A step without length divides by it, in Python's numbers or in a linear system of NumPy.
    except NoStepError as error:
        repeated = [i for i, (sigma, after) in enumerate(pairwise(levels)) if sigma == after]
        if not repeated:
            raise
        i = repeated[0]
        raise ValueError(
            f"{type(solver).__name__} has no step where a level is there twice, got sigmas[{i}] = "
            f"sigmas[{i + 1}] = {levels[i]:g}: leave one of them out"
        ) from error


def _steps_of(solver: Solver, levels: tuple[float, ...]) -> Iterator[Step]:
    """Yield the steps of a solver, each after its check."""
    name = type(solver).__name__
    check = Checked(name, solver.slope_first)
    steps: Iterable[Step] = solver.steps(levels)
    if not isinstance(steps, Iterable):
        raise TypeError(f"{name}.steps must yield Steps, got a {type(steps).__name__}")
    rest, number = iter(steps), 0
    while True:
        try:
            step = next(rest)
        except StopIteration:
            return
        except TypeError as error:
            raise TypeError(f"step {number} of {name}: {error}") from error
        except (ArithmeticError, ValueError) as error:
            if not _is_of_numbers(error):
                raise
            raise NoStepError(
                f"step {number} of {name} cannot be computed over these levels: {error}"
            ) from error
        check.check(number, step)
        yield step
        number += 1


def _is_of_numbers(error: Exception) -> bool:
    """Return whether an error comes from the numbers of a formula, and not from a check of the solver's own."""
    if isinstance(error, (ArithmeticError, np.linalg.LinAlgError)):
        return True
    # The functions of `math` raise a plain ValueError, whose text depends on the version of Python.
    return str(error).startswith(("math domain error", "expected a "))
