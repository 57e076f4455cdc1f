"""Linear expressions in named registers, in which a solver's formulas are written as on paper.

    x, D = register("x"), register("D")
    slope = (x - D) / sigma
    new = x + (sigma_next - sigma) * slope

`new.terms` holds one coefficient for each register, in float64. A coefficient that cancels to zero keeps its
register, so that plans over grids of one length have the same structure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any


@dataclass(frozen=True)
class Expression:
    """A sum of coefficient * register. It can be added to others, and be multiplied or divided by floats.

    Every other operation raises TypeError, and a division by 0 raises ZeroDivisionError.
    """

    __array_ufunc__ = None  # NumPy's numbers leave products to this class

    terms: Mapping[str, float]

    def __add__(self, other: Expression) -> Expression:
        _check_expression("+", other)
        terms = dict(self.terms)
        for name, coefficient in other.terms.items():
            terms[name] = terms.get(name, 0.0) + coefficient
        return Expression(terms)

    def __radd__(self, other: Any) -> Expression:
        # Python comes here only with a left operand that is no expression.
        _check_expression("+", other)
        raise NotImplementedError

    def __sub__(self, other: Expression) -> Expression:
        _check_expression("-", other)
        return self + -1.0 * other

    def __rsub__(self, other: Any) -> Expression:
        _check_expression("-", other)
        raise NotImplementedError

    def __mul__(self, factor: float) -> Expression:
        _check_number("*", factor)
        return Expression({name: factor * value for name, value in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Expression:
        _check_number("/", divisor)
        if divisor == 0:
            raise ZeroDivisionError(f"a formula in {self.registers} is divided by 0")
        return Expression({name: value / divisor for name, value in self.terms.items()})

    def __neg__(self) -> Expression:
        return -1.0 * self

    @property
    def registers(self) -> str:
        """The names of the registers, for messages."""
        return ", ".join(self.terms)


def register(name: str) -> Expression:
    """Return the expression that is the register alone."""
    return Expression({name: 1.0})


def _check_expression(sign: str, other: Any) -> None:
    if not isinstance(other, Expression):
        raise TypeError(
            f"a formula takes registers on both sides of {sign}, got a {_described(other)}: its terms are floats "
            "times registers"
        )


def _check_number(sign: str, number: Any) -> None:
    # The test of abstract classes is slow, and nearly all numbers are floats.
    if type(number) is not float and not isinstance(number, Real):
        raise TypeError(
            f"a formula is linear in its registers, so that {sign} takes a float, got a {_described(number)}"
        )


def _described(value: Any) -> str:
    if isinstance(value, Expression):
        return f"formula in {value.registers}"
    # The text of a tensor or array has many lines.
    return f"{type(value).__name__} {value}" if isinstance(value, Real) else type(value).__name__
