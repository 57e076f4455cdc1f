"""The multistep stochastic solvers of DPM-Solver++: 2M and 3M.

In lambda = -ln sigma, with h = lambda_next - lambda and z = (1 + eta) h, the part of a step that is exact for
constant denoised states D is

    x' = exp(-z) x + z phi_1(-z) D + sigma_next sqrt(1 - exp(-2 eta h)) xi.

The past denoised states give the derivatives d1 and d2 of D with respect to lambda / h, of which 2M adds
z phi_2(-z) d1 ("heun") or half of z phi_1(-z) d1 ("midpoint"), and 3M adds z phi_2(-z) d1 + z phi_3(-z) d2.

The published 3M takes half of the second derivative for d2, so that its order is 2 in the limit of small steps.
At 8 to 16 steps its error is smaller than that of the exact form, and it is the one here. Sources: Lu et al.
2022, "DPM-Solver++", arXiv 2211.01095, sections 3 and 4; k-diffusion's functions of these names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edmfast.sampling.engine import Call, Combine, Expression, Solver, Step, register
from edmfast.sampling.solvers.shared.fields import (
    SolverType,
    check_falling,
    check_solver_type,
    hold_noise,
)
from edmfast.sampling.solvers.shared.phi import phi

X, D, D1, D2 = (register(name) for name in ("x", "D", "D1", "D2"))


@dataclass(frozen=True)
class DPMSolverPP2MSDE(Solver):
    """DPM-Solver++(2M) of the SDE, in one call a step; the first step and a step to 0 are of first order.

    eta: 1 gives the SDE, and 0 gives the ODE. s_noise: a factor on the fresh noise.
    solver_type: "midpoint" or "heun", the rule for the derivative.
    Source: Lu et al. 2022, arXiv 2211.01095, section 3.
    Raises TypeError for a setting of another type, and ValueError for one that is out of range.
    """

    eta: float = 1.0
    s_noise: float = 1.0
    solver_type: SolverType = "midpoint"
    brownian = True

    def __post_init__(self) -> None:
        hold_noise(self)
        check_solver_type(self.solver_type)

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        for i, sigma in enumerate(levels[:-1]):
            more = 0.0 * D
            if i > 0 and levels[i + 1] > 0:
                h, h1 = _length(levels, i), _length(levels, i - 1)
                z = (1 + self.eta) * h
                factor = z * (phi(1, -z) / 2 if self.solver_type == "midpoint" else phi(2, -z))
                more = factor * (h / h1) * (D - D1)
            move = _exact(sigma, levels[i + 1], self.eta, self.s_noise, more)
            yield Step(sigma, (Call(sigma), move), keep=(("D1", "D"),))


@dataclass(frozen=True)
class DPMSolverPP3MSDE(Solver):
    """DPM-Solver++(3M) of the SDE in its published form, in one call a step.

    The first step and a step to 0 are of first order, and the second step is of second order.
    eta: 1 gives the SDE, and 0 gives the ODE. s_noise: a factor on the fresh noise.
    Source: Lu et al. 2022, arXiv 2211.01095; the method is that of k-diffusion.
    Raises TypeError for a setting of another type, and ValueError for one that is out of range.
    """

    eta: float = 1.0
    s_noise: float = 1.0
    brownian = True

    def __post_init__(self) -> None:
        hold_noise(self)

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        keep = (("D1", "D"), ("D2", "D1"))
        for i, sigma in enumerate(levels[:-1]):
            more = 0.0 * D
            if i > 0 and levels[i + 1] > 0:
                h, h1 = _length(levels, i), _length(levels, i - 1)
                z = (1 + self.eta) * h
                first = h / h1 * (D - D1)
                if i > 1:
                    h2 = _length(levels, i - 2)
                    change = first - h / h2 * (D1 - D2)
                    first = first + h1 / (h1 + h2) * change
                    more = z * phi(3, -z) * (h / (h1 + h2) * change)
                more = more + z * phi(2, -z) * first
            move = _exact(sigma, levels[i + 1], self.eta, self.s_noise, more)
            yield Step(sigma, (Call(sigma), move), keep=keep[: i + 1])


def _length(levels: tuple[float, ...], i: int) -> float:
    """Return the length of step i in -ln sigma."""
    return math.log(levels[i]) - math.log(levels[i + 1])


def _exact(
    sigma: float, sigma_next: float, eta: float, s_noise: float, more: Expression
) -> Combine:
    """Return the step that is exact for constant denoised states, plus the terms `more`."""
    check_falling(eta, sigma, sigma_next)
    if sigma_next == 0:
        return Combine("x", 0.0 * X + D)
    h = math.log(sigma) - math.log(sigma_next)
    z = (1 + eta) * h
    spread = sigma_next * math.sqrt(-math.expm1(-2 * eta * h))
    value = math.exp(-z) * X - math.expm1(-z) * D + more
    return Combine("x", value, s_noise * spread, (sigma, sigma_next), always=eta > 0)
