"""DPM-Solver and DPM-Solver++ of orders 1 to 3 with past evaluations, for the ODE and the reverse SDE.

A step of order p is a Taylor step (see `taylor`) with p - 1 derivatives from the p last evaluations. The published
third order has half of the second derivative, so it converges with order 2 only; at 8 to 16 steps its error is
often the smaller one. Sources: Lu et al. 2022, arXiv 2206.00927 (epsilon) and 2211.01095 (denoised, SDE).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edmfast._internal.numbers import as_bool, as_int
from edmfast.sampling.engine import Solver, Step
from edmfast.sampling.solvers.shared.fields import (
    SolverType,
    check_choice,
    check_solver_type,
    check_threshold,
    hold,
    hold_noise,
)
from edmfast.sampling.solvers.shared.orders import multistep_order
from edmfast.sampling.solvers.shared.taylor import PREDICTIONS, Derivative, Prediction
from edmfast.sampling.solvers.taylor_schedule import TaylorStep, taylor_steps
from edmfast.sampling.solvers.thresholding import Threshold


@dataclass(frozen=True)
class DPMSolverMultistep(Solver):
    """DPM-Solver++ or DPM-Solver with past evaluations, in one model call a step.

    Order 2 with prediction="denoised" is DPM-Solver++(2M). The first steps have the orders 1 and 2, and a step to
    0 is of first order. Sources: Lu et al. 2022, arXiv 2211.01095, algorithm 2, and arXiv 2206.00927.

    Args:
        order: 1, 2, 3 or "exact". Order 3 is the published third order, which omits a factor 2 on the second
            derivative and converges with order 2; "exact" has that factor.
        prediction: "denoised" for DPM-Solver++, or "epsilon" for DPM-Solver.
        solver_type: "midpoint" or "heun": the form of the second order.
        eta: 0 for the ODE, 1 for the reverse SDE (diffusers' sde-dpmsolver and sde-dpmsolver++).
        s_noise: a factor on the fresh noise.
        lower_order_final: among fewer than 15 steps, the last two have orders of at most 2 and 1.
        euler_at_final: the last step is of first order.
        shifted_third: subtract 1 from the last coefficient of the third order, as diffusers does with
            sde-dpmsolver++. Use it only to reproduce its results.
        threshold: a function that is applied to the denoised states, such as `DynamicThreshold`, or None.

    Raises:
        TypeError: a setting of another type.
        ValueError: a setting that is not one of those above, or out of range.
    """

    order: int | Literal["exact"] = 2
    prediction: Prediction = "denoised"
    solver_type: SolverType = "midpoint"
    eta: float = 0.0
    s_noise: float = 1.0
    lower_order_final: bool = True
    euler_at_final: bool = False
    shifted_third: bool = False
    threshold: Threshold | None = None
    brownian = True

    def __post_init__(self) -> None:
        check_choice("prediction", self.prediction, PREDICTIONS)
        check_solver_type(self.solver_type)
        check_threshold(self.threshold)
        if isinstance(self.order, str):
            check_choice("order", self.order, ("exact",))
        else:
            hold(self, order=as_int("order", self.order, least=1, most=3))
        hold_noise(self)
        for name in ("lower_order_final", "euler_at_final", "shifted_third"):
            hold(self, **{name: as_bool(name, getattr(self, name))})

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        steps, most = len(levels) - 1, 3 if isinstance(self.order, str) else self.order
        options = {
            "lower_order_final": self.lower_order_final,
            "euler_at_final": self.euler_at_final,
        }
        orders = [multistep_order(i, steps, most, **options) for i in range(steps)]
        kinds = [TaylorStep(self.prediction, self._derivatives(order)) for order in orders]
        return taylor_steps(levels, kinds, eta=self.eta, s_noise=self.s_noise)

    def _derivatives(self, order: int) -> tuple[Derivative, ...]:
        if order == 1:
            return ()
        if order == 2:
            # The midpoint form is the second form of UniPC without its corrector.
            return (Derivative((1,), "bh2" if self.solver_type == "midpoint" else "exact"),)
        points, half = (1, 2), 1.0 if self.order == "exact" else 0.5
        second = Derivative(points, "shifted" if self.shifted_third else "factor", half)
        return (Derivative(points), second)
