"""Heun's method for the probability-flow ODE: an Euler step, then the mean of the slopes at both ends.

Source: Karras et al. 2022, arXiv 2206.00364, algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edmfast.sampling.engine import Call, Combine, Solver, Step, register
from edmfast.sampling.solvers.churn import NO_CHURN, Churn, check_churn
from edmfast.sampling.solvers.euler import euler_step

X, D, END, D_END = (register(name) for name in ("x", "D", "end", "D_end"))


@dataclass(frozen=True)
class Heun(Solver):
    """Heun's method, of second order, in two calls a step, or one where the step ends at 0.

    churn: the settings of the churn. Source: Karras et al. 2022, arXiv 2206.00364, algorithms 1 and 2.
    Raises TypeError for a churn of another type.
    """

    churn: Churn = NO_CHURN
    slope_first = True

    def __post_init__(self) -> None:
        check_churn(self.churn)

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        for i, sigma in enumerate(levels[:-1]):
            raised, work = self.churn.at(levels, i)
            yield Step(sigma, (*work, *heun_work(raised, levels[i + 1])), sigma_hat=raised)


def heun_work(sigma: float, sigma_next: float) -> tuple[Call | Combine, ...]:
    """Return the work of a step from sigma to sigma_next."""
    if sigma_next == 0:
        # There is no slope at 0, where the step of first order is exact for a constant denoiser.
        return (Call(sigma), Combine("x", euler_step(sigma, 0.0)))
    slope, slope_end = (X - D) / sigma, (END - D_END) / sigma_next
    return (
        Call(sigma),
        Combine("end", euler_step(sigma, sigma_next)),
        Call(sigma_next, state="end", out="D_end"),
        Combine("x", X + (sigma_next - sigma) / 2 * (slope + slope_end)),
    )
