"""UniPC, which predicts with past evaluations and corrects with the evaluation at the end of the step.

Order p interpolates p evaluations in lambda = -ln sigma; the corrector adds the one at the end of the step, and
needs no model call of its own. B(h) = h or exp(h) - 1 matters where one difference alone is used: in the predictor
of order 2 and in the corrector of order 1, whose weight is 1/2. Source: Zhao et al. 2023, arXiv 2302.04867,
algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edmfast._internal.numbers import as_bool, as_int
from edmfast.sampling.engine import Solver, Step
from edmfast.sampling.solvers.shared.fields import as_items, check_choice, check_threshold, hold
from edmfast.sampling.solvers.shared.taylor import PREDICTIONS, Derivative, Prediction
from edmfast.sampling.solvers.taylor_schedule import TaylorStep, taylor_steps
from edmfast.sampling.solvers.thresholding import Threshold


@dataclass(frozen=True)
class UniPC(Solver):
    """UniPC of order p, with or without its corrector, in one model call a step.

    The predictor alone (UniP) converges with order p, and with the corrector with order p + 1. Source: Zhao et al.
    2023, arXiv 2302.04867.

    Args:
        order: p, from 1 to 6. The first steps have lower orders, and a step to 0 is of first order.
        form: "bh1" or "bh2", the function B(h) of the source.
        prediction: "denoised" or "epsilon", the prediction that is interpolated.
        corrector: correct the states of every step but the last.
        lower_order_final: lower the order so that the last step has order 1, the one before it 2, and so on.
        skip_corrector: the numbers of the steps, from 0, that are not corrected.
        threshold: a function that is applied to the denoised states, such as `DynamicThreshold`, or None.

    Raises:
        TypeError: a setting of another type.
        ValueError: a setting that is not one of those above, or out of range.
    """

    order: int = 3
    form: Literal["bh1", "bh2"] = "bh2"
    prediction: Prediction = "denoised"
    corrector: bool = True
    lower_order_final: bool = True
    skip_corrector: tuple[int, ...] = ()
    threshold: Threshold | None = None

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        check_choice("form", self.form, ("bh1", "bh2"))
        check_choice("prediction", self.prediction, PREDICTIONS)
        hold(self, order=as_int("order", self.order, least=1, most=6))
        for name in ("corrector", "lower_order_final"):
            hold(self, **{name: as_bool(name, getattr(self, name))})
        numbers = as_items("skip_corrector", self.skip_corrector)
        skipped = [as_int("skip_corrector", number, least=0) for number in numbers]
        hold(self, skip_corrector=tuple(skipped))

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        return taylor_steps(
            levels, [self._kind(i, len(levels) - 1) for i in range(len(levels) - 1)]
        )

    def _kind(self, i: int, steps: int) -> TaylorStep:
        order = min(self.order, i + 1)
        if self.lower_order_final:
            order = min(order, steps - i)
        predictor = self._derivatives(tuple(range(1, order)))
        corrected = self.corrector and i not in self.skip_corrector and i < steps - 1
        corrector = self._derivatives((*range(1, order), -1)) if corrected else None
        return TaylorStep(self.prediction, predictor, corrector)

    def _derivatives(self, points: tuple[int, ...]) -> tuple[Derivative, ...]:
        if len(points) == 1:
            return (Derivative(points, self.form),)
        return tuple(Derivative(points) for _ in points)
