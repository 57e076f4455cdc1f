"""DEIS: the slope epsilon = (x - D) / sigma as a polynomial through the last evaluations, in one of three
variables.

    x' = x + sum_j w_j eps_j,   w_j = integral of the Lagrange polynomial L_j(u(sigma)) d sigma from sigma to
    sigma_next

The variable u is sigma (rho-AB, which is the linear multistep method), ln sigma (log-rho-AB), or the time of a
variance-preserving schedule (t-AB). The weights are computed by Gauss and Legendre's rule in float64. Source:
Zhang and Chen 2023, "Fast Sampling of Diffusion Models with Exponential Integrator", arXiv 2204.13902.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from edmfast._internal.numbers import as_bool, as_int
from edmfast.sampling.engine import Call, Combine, Solver, Step
from edmfast.sampling.schedules.vp_schedules import LinearVP, VPSchedule
from edmfast.sampling.solvers.shared.fields import check_choice, check_threshold, hold
from edmfast.sampling.solvers.shared.history import evaluation, renamed
from edmfast.sampling.solvers.shared.orders import multistep_order
from edmfast.sampling.solvers.thresholding import Threshold

Variable = Literal["time", "rho", "log_rho"]

NODES = 64
"""The number of nodes of the rule. The integrands are analytic, and a step over six decades has 12 digits."""


@dataclass(frozen=True)
class DEIS(Solver):
    """DEIS of order 1 to 4, in one model call a step.

    Order p uses p evaluations; the source counts the degree of the polynomial, p - 1. The first steps have lower
    orders. A step to 0 is of first order but in the variable "rho", where the polynomial has no pole. Source:
    Zhang and Chen 2023, arXiv 2204.13902.

    Args:
        order: the number of evaluations of which the slope is a polynomial.
        variable: the variable of the polynomial: "time" (tAB of the source), "rho" (rho-AB) or "log_rho".
        schedule: the schedule of the times, for variable="time".
        lower_order_final: among fewer than 15 steps, the last two have orders of at most 2 and 1.
        threshold: a function that is applied to the denoised states, such as `DynamicThreshold`, or None.

    Raises:
        TypeError: a setting of another type.
        ValueError: a setting that is not one of those above, or out of range.
    """

    order: int = 4
    variable: Variable = "time"
    schedule: VPSchedule = field(default_factory=LinearVP)
    lower_order_final: bool = False
    threshold: Threshold | None = None

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        check_choice("variable", self.variable, ("time", "rho", "log_rho"))
        hold(self, order=as_int("order", self.order, least=1, most=4))
        hold(self, lower_order_final=as_bool("lower_order_final", self.lower_order_final))
        if not isinstance(self.schedule, VPSchedule):
            raise TypeError(f"schedule must be a VPSchedule, got {type(self.schedule).__name__}")

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        steps, depth = len(levels) - 1, self.order - 1
        for i, sigma in enumerate(levels[:-1]):
            order = multistep_order(i, steps, self.order, lower_order_final=self.lower_order_final)
            points = [evaluation(levels, i, back) for back in range(order)]
            end = points[0].denoised
            if levels[i + 1] > 0 or self.variable == "rho":
                nodes = [point.sigma for point in points]
                weights = slope_weights(nodes, levels[i + 1], self.variable, self.schedule)
                end = points[0].state
                for weight, point in zip(weights, points, strict=True):
                    end += weight * point.predicts("epsilon")
            keep = [("x", "y")]
            if i < steps - 1:
                keep += renamed("x", depth, i) + renamed("D", depth, i)
            yield Step(sigma, (Call(sigma), Combine("y", end)), tuple(keep))


def slope_weights(
    nodes: Sequence[float], end: float, variable: Variable, schedule: VPSchedule
) -> list[float]:
    """Return the weights of the slopes at levels `nodes` in a step from nodes[0] to `end`."""
    places, rule = np.polynomial.legendre.leggauss(NODES)
    # Polynomials in sigma are integrated in sigma, the others in ln sigma, where their integrands are analytic.
    if variable == "rho":
        sigmas = nodes[0] + (end - nodes[0]) * (places + 1) / 2
        lengths = (end - nodes[0]) / 2 * rule
    else:
        sigmas = nodes[0] * (end / nodes[0]) ** ((places + 1) / 2)
        lengths = math.log(end / nodes[0]) / 2 * rule * sigmas
    points = _variable(sigmas, variable, schedule)
    knots = _variable(np.array(nodes), variable, schedule)
    weights = []
    for j, knot in enumerate(knots):
        others = np.delete(knots, j)
        values = np.prod((points[:, None] - others) / (knot - others), axis=1)
        weights.append(float((lengths * values).sum()))
    return weights


def _variable(sigmas: np.ndarray, variable: Variable, schedule: VPSchedule) -> np.ndarray:
    if variable == "rho":
        return sigmas
    values: np.ndarray = (
        np.log(sigmas) if variable == "log_rho" else schedule.time(torch.from_numpy(sigmas)).numpy()
    )
    return values
