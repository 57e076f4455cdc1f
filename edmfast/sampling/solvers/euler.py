"""Euler's method for the probability-flow ODE, and its ancestral form.

With D the denoised states, a step of dx/dsigma = (x - D) / sigma from sigma to sigma_next is

    x' = x + (sigma_next - sigma) (x - D) / sigma.

The ancestral step moves to sigma_down < sigma_next in this way and adds fresh noise of standard deviation
sigma_up, with sigma_down² + sigma_up² = sigma_next². Sources: Karras et al. 2022, arXiv 2206.00364; Ho et al.
2020, arXiv 2006.11239; Song et al. 2021, arXiv 2010.02502 (eta).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from edmfast.sampling.engine import Call, Combine, Expression, Solver, Step, register
from edmfast.sampling.solvers.churn import NO_CHURN, Churn, check_churn
from edmfast.sampling.solvers.shared.fields import hold_noise
from edmfast.sampling.steps import get_ancestral_step

X, D = register("x"), register("D")


def euler_step(sigma: float, sigma_next: float) -> Expression:
    """Return the state at sigma_next, on the straight line from x at sigma."""
    return X + (sigma_next / sigma - 1) * (X - D)


@dataclass(frozen=True)
class Euler(Solver):
    """Euler's method, of first order, in one call a step, with an optional churn.

    churn: the settings of the churn. Source: Karras et al. 2022, arXiv 2206.00364.
    Raises TypeError for a churn of another type.
    """

    churn: Churn = NO_CHURN
    slope_first = True

    def __post_init__(self) -> None:
        check_churn(self.churn)

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        for i, sigma in enumerate(levels[:-1]):
            raised, work = self.churn.at(levels, i)
            move = Combine("x", euler_step(raised, levels[i + 1]))
            yield Step(sigma, (*work, Call(raised), move), sigma_hat=raised)


@dataclass(frozen=True)
class AncestralEuler(Solver):
    """Ancestral sampling with Euler steps, in one call a step.

    eta: 1 gives ancestral sampling, and 0 gives Euler's method. s_noise: a factor on the fresh noise.
    Sources: Ho et al. 2020, arXiv 2006.11239; Song et al. 2021, arXiv 2010.02502 (eta).
    Raises TypeError for a setting of another type, and ValueError for one that is out of range.
    """

    eta: float = 1.0
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        hold_noise(self, finite=False)

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        for sigma, sigma_next in pairwise(levels):
            down, up = get_ancestral_step(sigma, sigma_next, self.eta)
            interval = (sigma, sigma_next)
            # A step without noise must not advance the noise source, but a factor of 0 leaves its
            # calls as they are.
            move = Combine("x", euler_step(sigma, down), self.s_noise * up, interval, always=up > 0)
            yield Step(sigma, (Call(sigma), move))
