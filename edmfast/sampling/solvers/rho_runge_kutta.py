"""Explicit Runge–Kutta methods on dx/dsigma = (x - D) / sigma, by their tableaux.

Stage k evaluates the slope at sigma + c_k (sigma_next - sigma), at a state that is x plus the sum of a_kj times
the slopes before, and the step ends at x plus the sum of b_k times all slopes. DEIS calls them rho-RK (Zhang and
Chen 2023, arXiv 2204.13902, section 4). The tableaux are those of Hairer, Nørsett and Wanner 1993, "Solving
Ordinary Differential Equations I", and of Ralston 1962, van der Houwen 1972 and Shu and Osher 1988.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from edmfast.sampling.engine import Call, Combine, Solver, Step, register
from edmfast.sampling.solvers.shared.fields import check_choice, check_threshold
from edmfast.sampling.solvers.thresholding import Threshold

Method = Literal[
    "euler", "heun2", "kutta3", "ralston3", "heun3", "van_der_houwen3", "ssprk3", "rk4"
]


class Tableau(NamedTuple):
    """The coefficients of an explicit method: the rows a of the stages after the first, and the weights b."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


TABLEAUX = {
    "euler": Tableau((), (1,)),
    "heun2": Tableau(((1,),), (1 / 2, 1 / 2)),
    "kutta3": Tableau(((1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6)),
    "ralston3": Tableau(((1 / 2,), (0, 3 / 4)), (2 / 9, 1 / 3, 4 / 9)),
    "heun3": Tableau(((1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4)),
    "van_der_houwen3": Tableau(((8 / 15,), (1 / 4, 5 / 12)), (1 / 4, 0, 3 / 4)),
    "ssprk3": Tableau(((1,), (1 / 4, 1 / 4)), (1 / 6, 1 / 6, 2 / 3)),
    "rk4": Tableau(((1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


@dataclass(frozen=True)
class RhoRungeKutta(Solver):
    """An explicit Runge–Kutta method in sigma, in one to four model calls a step.

    A step to 0 is of first order, because the slope at 0 does not exist. Source: Zhang and Chen 2023,
    arXiv 2204.13902, section 4.

    Args:
        method: "euler", "heun2", "kutta3", "ralston3", "heun3", "van_der_houwen3", "ssprk3" or "rk4", where the
            number is the order and the number of calls.
        threshold: a function that is applied to the denoised states, such as `DynamicThreshold`, or None.

    Raises:
        TypeError: a setting of another type.
        ValueError: a method that is not one of those above.
    """

    method: Method = "kutta3"
    threshold: Threshold | None = None

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        check_choice("method", self.method, tuple(TABLEAUX))

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        x = register("x")
        for sigma, sigma_next in pairwise(levels):
            h = sigma_next - sigma
            rows, weights = TABLEAUX[self.method if sigma_next > 0 else "euler"]
            work: list[Call | Combine] = [Call(sigma)]
            slopes = [(x - register("D")) / sigma]
            for k, row in enumerate(rows, 1):
                state, inner = x, sigma + h * sum(row)
                for coefficient, slope in zip(row, slopes, strict=True):
                    state += h * coefficient * slope
                work += [Combine(f"u{k}", state), Call(inner, f"u{k}", f"D{k}")]
                # The state is a sum of x and denoised states, so later sums need not read it again.
                slopes.append((state - register(f"D{k}")) / inner)
            end = x
            for weight, slope in zip(weights, slopes, strict=True):
                end += h * weight * slope
            yield Step(sigma, (*work, Combine("x", end)))
