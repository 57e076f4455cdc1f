"""Registers of past evaluations: x1, D1 hold the states and denoised states of the last level, x2, D2 those
before."""

from __future__ import annotations

from collections.abc import Sequence

from edmfast.sampling.engine import Expression, register
from edmfast.sampling.solvers.shared.taylor import Point


def evaluation(levels: Sequence[float], i: int, back: int, *, first_is_zero: bool = False) -> Point:
    """Return the evaluation `back` levels before level i, in the registers that step i has.

    first_is_zero: the denoised states of the first level are 0 and have no register.
    """
    suffix = str(back) if back else ""
    zero = first_is_zero and back == i
    denoised = Expression({}) if zero else register(f"D{suffix}")
    return Point(levels[i - back], register(f"x{suffix}"), denoised)


def renamed(name: str, depth: int, i: int, *, missing: int = -1) -> list[tuple[str, str]]:
    """Return the renaming after step i that moves `name` to name1, name1 to name2, and so on up to `depth`.

    missing: the level whose evaluation has no register.
    """
    chain = [name, *(f"{name}{back}" for back in range(1, depth + 1))]
    pairs = zip(chain, chain[1:], range(i, -1, -1), strict=False)
    return [(new, old) for old, new, level in pairs if level != missing]
