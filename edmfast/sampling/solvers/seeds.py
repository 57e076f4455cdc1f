"""SEEDS: exponential solvers of the reverse SDE without derivatives, in one to three stages a step.

In lambda = -ln sigma the reverse SDE is dx = -(1 + eta)(x - D) dlambda + sqrt(2 eta) sigma dW, and eta = 0 is the
ODE. A stage goes from sigma over the length k = ln(sigma / u) to the level u and has the law of the linear part.
With f the prediction, f' its difference quotient in lambda and phi_j the functions of exponential integrators,

    denoised   (u/sigma)^(1+eta) x + (1+eta) [k phi_1(-(1+eta) k) D + k² phi_2(-(1+eta) k) D'],
               plus noise of variance u² (1 - (u/sigma)^(2 eta))
    epsilon    x - (1+eta) u [k phi_1(k) eps + k² phi_2(k) eps'],   plus noise of variance eta (sigma² - u²)

where the middle level of order 2 is that of lambda + h/2, and those of order 3 are at h/3 and 2h/3. All stages of
a step follow one Brownian path: a later stage holds the noise of an earlier one, carried on by the linear part.
Source: Gonzalez et al. 2023, arXiv 2305.14267, algorithms SEEDS-1 to SEEDS-3, whose eta is 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from edmfast._internal.numbers import as_int
from edmfast.sampling.engine import Call, Combine, Expression, Solver, Step, register
from edmfast.sampling.solvers.shared.fields import check_choice, check_falling, hold, hold_noise
from edmfast.sampling.solvers.shared.phi import phi

X = register("x")
_PREDICTIONS = ("denoised", "epsilon")


@dataclass(frozen=True)
class SEEDS(Solver):
    """SEEDS of order 1, 2 or 3, in as many calls a step. A step to 0 is one call and ends at the denoised states.

    The order is that of the ODE and of the mean. The law of the noise is of order 1 with one stage and of order 2
    with more.

    order: the number of stages.
    prediction: "denoised", as in the paper's solvers for EDM, or "epsilon", as in those for the
        variance-preserving process.
    eta: 1 gives the SDE, and 0 gives the ODE, where levels may increase. s_noise: a factor on the fresh noise.

    Source: Gonzalez et al. 2023, arXiv 2305.14267.
    Raises TypeError for a setting of another type, and ValueError for one that is out of range.
    """

    order: int = 3
    prediction: str = "denoised"
    eta: float = 1.0
    s_noise: float = 1.0
    brownian = True

    def __post_init__(self) -> None:
        check_choice("prediction", self.prediction, _PREDICTIONS)
        hold(self, order=as_int("order", self.order, least=1, most=3))
        hold_noise(self)

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        for sigma, sigma_next in pairwise(levels):
            check_falling(self.eta, sigma, sigma_next)
            if sigma_next == 0:
                yield Step(sigma, (Call(sigma), Combine("x", register("D"))))
            else:
                yield Step(sigma, tuple(self._stages(sigma, sigma_next)))

    def _stages(self, sigma: float, sigma_next: float) -> Iterator[Call | Combine]:
        h = math.log(sigma / sigma_next)
        yield Call(sigma)
        first = self._predicted("x", "D", sigma)
        slope, noise, at = None, None, sigma
        for j in range(1, self.order + 1):
            last = j == self.order
            out, level = (
                ("x", sigma_next) if last else (f"u{j}", sigma * math.exp(-j * h / self.order))
            )
            # The second order takes the slope in its middle, and all other weights are those of phi_2.
            midpoint = last and self.order == 2
            mean = self._mean(sigma, level, first, slope, midpoint=midpoint)
            value = mean if noise is None else mean + self._carried(at, level) * noise
            yield Combine(out, value, self.s_noise * self._fresh(at, level), (at, level))
            if last:
                return
            yield Call(level, state=out, out=f"D{j}")
            # What is left of a stage beside its mean is the Brownian path up to its level.
            noise, at = register(out) - mean, level
            slope = (self._predicted(out, f"D{j}", level) - first) / (j * h / self.order)

    def _predicted(self, state: str, denoised: str, sigma: float) -> Expression:
        if self.prediction == "denoised":
            return register(denoised)
        return (register(state) - register(denoised)) / sigma

    def _mean(
        self,
        sigma: float,
        level: float,
        first: Expression,
        slope: Expression | None,
        *,
        midpoint: bool,
    ) -> Expression:
        k, rate = math.log(sigma / level), 1 + self.eta
        z, scale, carried = k, -rate * level, 1.0
        if self.prediction == "denoised":
            z, scale, carried = -rate * k, rate, (level / sigma) ** rate
        mean = carried * X + scale * k * phi(1, z) * first
        if slope is None:
            return mean
        weight = phi(1, z) / 2 if midpoint else phi(2, z)
        return mean + scale * k**2 * weight * slope

    def _carried(self, sigma: float, level: float) -> float:
        """Return the factor by which the linear part carries noise from one level to the next."""
        return (level / sigma) ** (1 + self.eta) if self.prediction == "denoised" else 1.0

    def _fresh(self, sigma: float, level: float) -> float:
        """Return the standard deviation of the noise between two levels."""
        if not self.eta:
            return 0.0
        if self.prediction == "denoised":
            return level * math.sqrt(-math.expm1(2 * self.eta * math.log(level / sigma)))
        return math.sqrt(self.eta * (sigma - level) * (sigma + level))
