"""Steps that are exact in the linear part of the ODE and take a Taylor polynomial of the prediction.

With lambda = -ln sigma, h = lambda_next - lambda and the functions phi_1(z) = (exp(z) - 1) / z and
phi_{k+1}(z) = (phi_k(z) - 1/k!) / z, a step from a point with the prediction f and its derivatives f^(k) in lambda
is

    epsilon:   x' = x - sigma_next sum_k h^(k+1) phi_{k+1}(h) eps^(k)
    denoised:  x' = (sigma_next / sigma) x + sum_k h^(k+1) phi_{k+1}(-h) D^(k)

The derivatives come from differences of the prediction between this point and others: a small linear system gives
their weights. DPM-Solver, DPM-Solver++, UniPC and the schedules of USF are such steps, with other points and with
other factors on the derivatives (`Derivative.rule`). With eta > 0 the step is one of the reverse SDE, and z is
(1 + eta) h. Sources: Lu et al. 2022, arXiv 2206.00927 and 2211.01095; Zhao et al. 2023, arXiv 2302.04867; Liu et
al. 2024, "A Unified Sampling Framework for Solver Searching", ICLR 2024.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edmfast._internal.numbers import as_float, as_int
from edmfast.sampling.engine import Expression
from edmfast.sampling.solvers.shared.fields import as_items, check_choice, check_falling, hold
from edmfast.sampling.solvers.shared.phi import phi

Prediction = Literal["epsilon", "denoised"]
PREDICTIONS = ("epsilon", "denoised")
Rule = Literal["exact", "factor", "linear", "expm1", "bh1", "bh2", "shifted"]
RULES = ("exact", "factor", "linear", "expm1", "bh1", "bh2", "shifted")


@dataclass(frozen=True)
class Point:
    """An evaluation of the denoiser: its level, the states and the denoised states."""

    sigma: float
    state: Expression
    denoised: Expression

    def predicts(self, prediction: Prediction) -> Expression:
        """Return epsilon = (x - D) / sigma, or D."""
        if prediction == "epsilon":
            return (self.state - self.denoised) / self.sigma
        return self.denoised


@dataclass(frozen=True)
class Derivative:
    """The rule for one derivative of a Taylor step.

    points: the evaluations of which the difference with the expansion point is taken: 1 is the one before it, 2
        the one before that, and -1 is the one at the end of the step, which only a corrector has.
    rule: "exact" keeps the derivative. "factor" multiplies it by `value`, "linear" by 1 + value * h, and "expm1"
        by 1 + value * (exp(h) - 1). "bh1" and "bh2" multiply it such that its term is B(h) / 2 times h f', with
        B(h) = h or exp(h) - 1, as the first and second forms of UniPC have it; they are for the first derivative.
        "shifted" subtracts 1 from the coefficient of the second derivative and multiplies it by `value`, as the
        third-order SDE steps of diffusers do.

    Sources: Lu et al. 2022, arXiv 2211.01095; Zhao et al. 2023, arXiv 2302.04867 ("bh1", "bh2"); Liu et al. 2024,
    "A Unified Sampling Framework for Solver Searching", ICLR 2024 ("factor", "linear", "expm1").
    Raises TypeError for a setting of another type, and ValueError for a rule or points other than those above, or
    a value that is not finite.
    """

    points: tuple[int, ...]
    rule: Rule = "exact"
    value: float = 0.0

    def __post_init__(self) -> None:
        check_choice("rule", self.rule, RULES)
        hold(self, value=as_float("value", self.value))
        points = as_items("points", self.points)
        hold(self, points=tuple(as_int("points", point, least=-1) for point in points))
        if not self.points or 0 in self.points:
            raise ValueError(f"points must be among -1, 1, 2, ..., got {self.points}")

    def factor(self, h: float, z: float) -> float:
        """Return the factor on this derivative in a step of length h, with z the argument of phi."""
        if self.rule == "exact":
            return 1.0
        if self.rule == "factor":
            return self.value
        if self.rule == "linear":
            return 1 + self.value * h
        if self.rule == "expm1":
            return 1 + self.value * math.expm1(h)
        if self.rule == "shifted":
            return self.value * (1 - 1 / abs(z * phi(3, z)))
        return 0.5 * (phi(1, z) if self.rule == "bh2" else 1.0) / phi(2, z)


def taylor_step(
    x: Expression,
    start: Point,
    sigma_next: float,
    prediction: Prediction,
    derivatives: Sequence[Derivative] = (),
    others: Mapping[int, Point] | None = None,
    eta: float = 0.0,
) -> Expression:
    """Return the states at sigma_next, after a step from the states x at the level of `start`.

    derivatives: those of order 1, 2 and so on. A step to 0 needs none, because it ends at the denoised states.
    others: the other points, by the numbers that the derivatives use.
    eta: 0 for the ODE; the mean of a step of the reverse SDE otherwise.
    """
    if sigma_next == 0:
        return start.denoised
    sigma, value = start.sigma, start.predicts(prediction)
    if sigma_next == sigma:
        # Grids that end at the level of their last call repeat it, as those of diffusers do.
        return x + 0.0 * value
    h = math.log(sigma / sigma_next)
    if prediction == "epsilon":
        z, scale = h, -sigma_next * (1 + eta) * h
        result = x + (1 + eta) * (sigma_next - sigma) * value
    else:
        z = -(1 + eta) * h
        scale, decay = -z, math.exp(z)
        result = sigma_next / sigma * math.exp(-eta * h) * x + (1 - decay) * value
    for k, rule in enumerate(derivatives, 1):
        points = [(others or {})[number] for number in rule.points]
        gaps = [math.log(sigma / point.sigma) / h for point in points]
        factor = scale * phi(k + 1, z) * rule.factor(h, z)
        for weight, point in zip(difference_weights(gaps, k), points, strict=True):
            result += factor * weight * (point.predicts(prediction) - value)
    return result


def step_noise(sigma: float, sigma_next: float, prediction: Prediction, eta: float) -> float:
    """Return the standard deviation of the fresh noise of a step of the reverse SDE.

    Raises ValueError where the levels increase, because the reverse SDE runs downwards.
    """
    check_falling(eta, sigma, sigma_next)
    if prediction == "epsilon":
        return math.sqrt(eta * (sigma - sigma_next) * (sigma + sigma_next)) if sigma_next else 0.0
    ratio = sigma_next / sigma
    return sigma_next * math.sqrt(1 - ratio ** (2 * eta))


def difference_weights(gaps: Sequence[float], order: int) -> list[float]:
    """Return w with sum_j w_j (f(gap_j) - f(0)) = the derivative f^(order)(0) of every polynomial of degree
    len(gaps).

    The weights solve sum_j w_j gap_j^i / i! = [i = order] for i = 1 ... len(gaps).
    """
    powers = [[gap**i / math.factorial(i) for gap in gaps] for i in range(1, len(gaps) + 1)]
    wanted = [float(i == order) for i in range(1, len(gaps) + 1)]
    weights: list[float] = np.linalg.solve(powers, wanted).tolist()
    return weights
