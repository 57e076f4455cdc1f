"""Combinations of more registers than one pass can read."""

from __future__ import annotations

from edmfast.sampling.engine import Combine, Expression, register

MOST = 8
"""The number of tensors that one pass of `edmfast.ops.linear_combination` reads."""


def passes(
    out: str,
    value: Expression,
    noise: float = 0.0,
    interval: tuple[float, float] = (0.0, 0.0),
) -> list[Combine]:
    """Return the combinations that put value + noise * xi into a register: one, or several for long expressions.

    The last one adds the noise, so that it is drawn once.
    """
    terms = list(value.terms.items())
    partial: list[Combine] = []
    while len(terms) > MOST:
        name = f"{out}+"
        partial.append(Combine(name, Expression(dict(terms[:MOST]))))
        terms = [*register(name).terms.items(), *terms[MOST:]]
    return [*partial, Combine(out, Expression(dict(terms)), noise, interval)]
