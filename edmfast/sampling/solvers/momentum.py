"""Multistep solvers with momentum, of fractional order: generalised heavy ball, heavy ball and Nesterov.

With the slope eps = (x - D) / sigma, its Adams–Bashforth mean p of order k, and a damping beta in (0, 1], a step
is x' = x + (sigma_next - sigma) u, where

    GHVB        v = (1 - beta) v + beta eps,  u = the mean of the last k velocities v
    heavy ball  v = (1 - beta) v + beta p,    u = v
    Nesterov    v = (1 - beta) v + beta p,    u = (1 - beta) v + beta p

The first v is the first slope. An order o stands for k = ceil(o) and beta = o - (k - 1), and an integer order for
k = o and beta = 1, which is the plain Adams–Bashforth method. Momentum enlarges the region of stability, so that
high guidance diverges later. The coefficients are those of a uniform grid, and orders of accuracy hold on grids
with equal steps in sigma: k for GHVB and for integer orders, and 1 for the other two with beta < 1.
The first step is Euler's, whose error is of the second power of the step: from a high level it is small, and
otherwise the order in the limit of small steps is at most 2.
Source: Wizadwongsa et al. 2023, arXiv 2307.11118.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edmfast._internal.numbers import as_int
from edmfast.sampling.engine import Call, Combine, Expression, Solver, Step, register
from edmfast.sampling.solvers.shared.adams_bashforth import as_order, coefficients, fractional
from edmfast.sampling.solvers.shared.fields import hold

X, D, E, V = (register(name) for name in ("x", "D", "e", "v"))


@dataclass(frozen=True)
class GHVB(Solver):
    """The generalised heavy ball of a fractional order, in one call a step. Its first steps have lower orders.

    order: above 0 and at most 5, such as 1.8. The method has the accuracy of the next integer.

    Source: Wizadwongsa et al. 2023, arXiv 2307.11118. Raises TypeError for an order that is no number, and
    ValueError for one that is out of range.
    """

    order: float = 1.8

    def __post_init__(self) -> None:
        hold(self, order=as_order(self.order))

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        whole, beta = fractional(self.order)
        for i, sigma in enumerate(levels[:-1]):
            known = min(whole, i + 1)
            velocity = _damped(beta, (X - D) / sigma, first=i == 0)
            mean = _mean("v", coefficients(known, beta))
            move = Combine("x", X + (levels[i + 1] - sigma) * mean)
            yield Step(sigma, (Call(sigma), Combine("v", velocity), move), _history("v", known))


@dataclass(frozen=True)
class HeavyBall(Solver):
    """An Adams–Bashforth method with Polyak's heavy ball (PLMS with HB), in one call a step.

    order: above 0 and at most 5; its part after the point is the damping. The first steps have lower orders.

    Source: Wizadwongsa et al. 2023, arXiv 2307.11118. Raises TypeError for an order that is no number, and
    ValueError for one that is out of range.
    """

    order: float = 1.8

    def __post_init__(self) -> None:
        hold(self, order=as_order(self.order))

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        yield from _steps_of_mean(self.order, levels, nesterov=False)


@dataclass(frozen=True)
class Nesterov(Solver):
    """An Adams–Bashforth method with Nesterov's momentum (PLMS with NT), in one call a step.

    order: above 0 and at most 5; its part after the point is the damping. The first steps have lower orders.

    Source: Wizadwongsa et al. 2023, arXiv 2307.11118. Raises TypeError for an order that is no number, and
    ValueError for one that is out of range.
    """

    order: float = 1.8

    def __post_init__(self) -> None:
        hold(self, order=as_order(self.order))

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        yield from _steps_of_mean(self.order, levels, nesterov=True)


@dataclass(frozen=True)
class IPNDM(Solver):
    """The improved pseudo numerical method: Adams–Bashforth on slopes, with coefficients of a uniform grid.

    It takes one call a step, and the first steps have lower orders. `LinearMultistep` has the coefficients of the
    actual grid. Sources: Liu et al. 2022, arXiv 2202.09778; Zhang & Chen 2022, arXiv 2204.13902.

    order: from 1 to 4. Raises TypeError for one that is no integer, and ValueError for another one.
    """

    order: int = 4

    def __post_init__(self) -> None:
        hold(self, order=as_int("order", self.order, least=1, most=4))

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        yield from _steps_of_mean(float(self.order), levels, nesterov=False)


def _steps_of_mean(order: float, levels: tuple[float, ...], *, nesterov: bool) -> Iterator[Step]:
    """Yield the steps whose momentum acts on the Adams–Bashforth mean of the slopes."""
    whole, beta = fractional(order)
    for i, sigma in enumerate(levels[:-1]):
        known = min(whole, i + 1)
        slope = Combine("e", (X - D) / sigma)
        mean = _mean("e", coefficients(known))
        work: list[Call | Combine] = [Call(sigma), slope]
        update, keep = mean, _history("e", known)
        if beta < 1:
            work.append(Combine("v", _damped(beta, mean, first=i == 0)))
            update, keep = V, (*keep, ("v1", "v"))
        if nesterov and beta < 1:
            update = (1 - beta) * V + beta * mean
        work.append(Combine("x", X + (levels[i + 1] - sigma) * update))
        yield Step(sigma, tuple(work), keep)


def _damped(beta: float, new: Expression, *, first: bool) -> Expression:
    return new if first or beta == 1 else (1 - beta) * register("v1") + beta * new


def _mean(name: str, shares: tuple[float, ...]) -> Expression:
    """Return the sum of shares times a register and those of the steps before, name1, name2, ..."""
    total = shares[0] * register(name)
    for j, share in enumerate(shares[1:], 1):
        total = total + share * register(f"{name}{j}")
    return total


def _history(name: str, known: int) -> tuple[tuple[str, str], ...]:
    """Return the renaming that makes a register the first of at most four that the next step remembers."""
    names = [name, *(f"{name}{j}" for j in range(1, known))]
    return tuple((f"{name}{j}", old) for j, old in enumerate(names[:4], 1))
