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


@dataclass(frozen=True)
class Expression:
    """A sum of coefficient * register. It can be added to others, and be multiplied or divided by floats."""

    terms: Mapping[str, float]

    def __add__(self, other: Expression) -> Expression:
        terms = dict(self.terms)
        for name, coefficient in other.terms.items():
            terms[name] = terms.get(name, 0.0) + coefficient
        return Expression(terms)

    def __sub__(self, other: Expression) -> Expression:
        return self + -1.0 * other

    def __mul__(self, factor: float) -> Expression:
        return Expression({name: factor * value for name, value in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Expression:
        return Expression({name: value / divisor for name, value in self.terms.items()})

    def __neg__(self) -> Expression:
        return -1.0 * self


def register(name: str) -> Expression:
    """Return the expression that is the register alone."""
    return Expression({name: 1.0})
