"""Multistep solvers whose every step is a Taylor step of its own kind, with an optional corrector.

A corrector repeats a step from its start with the evaluation at the step's end as one more point. It costs no
model call, because the next step needs that evaluation too, and it leaves the denoised states as they are. A
schedule found by search (Liu et al. 2024, "A Unified Sampling Framework for Solver Searching", ICLR 2024) is one
`TaylorSchedule` with its own prediction, points and factors at each step; `UniPC` and `DPMSolverMultistep` are
regular ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edmfast._internal.numbers import as_bool
from edmfast.sampling.engine import Call, Combine, Solver, Step, register
from edmfast.sampling.solvers.shared.fields import as_items, check_choice, check_threshold, hold
from edmfast.sampling.solvers.shared.history import evaluation, renamed
from edmfast.sampling.solvers.shared.passes import passes
from edmfast.sampling.solvers.shared.taylor import (
    PREDICTIONS,
    Derivative,
    Prediction,
    step_noise,
    taylor_step,
)
from edmfast.sampling.solvers.thresholding import Threshold

X, C, D = register("x"), register("c"), register("D")


@dataclass(frozen=True)
class TaylorStep:
    """The kind of one step: its prediction, the rules for its derivatives, and those of its corrector or None.

    prediction: "denoised" or "epsilon", the prediction that the polynomial interpolates.
    derivatives, corrector: the rules for the derivatives of order 1, 2 and so on.

    Source: Liu et al. 2024, "A Unified Sampling Framework for Solver Searching", ICLR 2024.
    Raises TypeError for a setting of another type, and ValueError for points or a rule that such a step
    cannot have.
    """

    prediction: Prediction = "denoised"
    derivatives: tuple[Derivative, ...] = ()
    corrector: tuple[Derivative, ...] | None = None

    def __post_init__(self) -> None:
        check_choice("prediction", self.prediction, PREDICTIONS)
        hold(self, derivatives=as_items("derivatives", self.derivatives, Derivative))
        if self.corrector is not None:
            hold(self, corrector=as_items("corrector", self.corrector, Derivative))
        for new, rules in ((0, self.derivatives), (1, self.corrector or ())):
            for order, rule in enumerate(rules, 1):
                _check(rule, order, new)

    @property
    def depth(self) -> int:
        """The number of evaluations before the present one that the step and its corrector need."""
        reach = [point for rule in self.derivatives for point in rule.points]
        # A corrector runs at the next level, from which every point is one further away.
        reach += [
            point + 1 for rule in self.corrector or () for point in rule.points if point != -1
        ]
        return max([*reach, 0 if self.corrector is None else 1], default=0)


@dataclass(frozen=True)
class TaylorSchedule(Solver):
    """A multistep solver with a kind of step for every step, in one model call a step.

    Source: Liu et al. 2024, "A Unified Sampling Framework for Solver Searching", ICLR 2024.

    Args:
        kinds: one `TaylorStep` for each step. Its derivatives may use only points that exist at that step.
        start_at_zero: take 0 for the denoised states at the first level, which saves the first model call.
        threshold: a function that is applied to the denoised states, such as `DynamicThreshold`, or None.

    Raises:
        TypeError: a setting of another type.
        ValueError: no kinds; and in a run, levels that are not one more than the kinds, or points that do not
            exist at their step.
    """

    kinds: tuple[TaylorStep, ...]
    start_at_zero: bool = False
    threshold: Threshold | None = None

    def __post_init__(self) -> None:
        hold(self, kinds=as_items("kinds", self.kinds, TaylorStep))
        if not self.kinds:
            raise ValueError("kinds must hold at least one TaylorStep, got ()")
        check_threshold(self.threshold)
        hold(self, start_at_zero=as_bool("start_at_zero", self.start_at_zero))

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        if len(self.kinds) != len(levels) - 1:
            raise ValueError(
                f"kinds must have one entry for each of the {len(levels) - 1} steps of sigmas, "
                f"got {len(self.kinds)}"
            )
        if self.start_at_zero and len(self.kinds) == 1:
            raise ValueError("start_at_zero needs sigmas of at least 2 steps, got 1")
        return taylor_steps(levels, self.kinds, start_at_zero=self.start_at_zero)


def taylor_steps(
    levels: Sequence[float],
    kinds: Sequence[TaylorStep],
    *,
    eta: float = 0.0,
    s_noise: float = 1.0,
    start_at_zero: bool = False,
) -> Iterator[Step]:
    """Yield the steps of a multistep solver, of which kinds[i] goes from levels[i] to levels[i + 1].

    eta, s_noise: the share of fresh noise of the reverse SDE, and a factor on that noise.
    start_at_zero: see `TaylorSchedule`.
    """
    depth = max(kind.depth for kind in kinds)
    states = any(kind.prediction == "epsilon" for kind in kinds)
    last = len(levels) - 2
    start = X
    for i, kind in enumerate(kinds):
        sigma, sigma_next = levels[i], levels[i + 1]
        points = [
            evaluation(levels, i, k, first_is_zero=start_at_zero) for k in range(min(depth, i) + 1)
        ]
        work: list[Call | Combine] = [] if start_at_zero and i == 0 else [Call(sigma)]
        base = X
        if i and (corrector := kinds[i - 1].corrector) is not None:
            _check_reach(corrector, i - 1, len(points) - 2)
            others = {-1: points[0], **dict(enumerate(points[2:], 1))}
            prediction = kinds[i - 1].prediction
            corrected = taylor_step(start, points[1], sigma, prediction, corrector, others)
            work += passes("c", corrected)
            base = C
        _check_reach(kind.derivatives, i, len(points) - 1)
        others = dict(enumerate(points[1:], 1))
        moved = taylor_step(
            base, points[0], sigma_next, kind.prediction, kind.derivatives, others, eta
        )
        noise = s_noise * step_noise(sigma, sigma_next, kind.prediction, eta) if eta else 0.0
        work += passes("y", moved, noise, (sigma, sigma_next))
        # The states at this level may be a part of later steps, so the new ones do not take their place before the
        # end.
        keep = [("x", "y")]
        if i < last:
            keep += renamed("D", depth, i, missing=0 if start_at_zero else -1)
            keep += renamed("x", depth, i) if states else []
            if kind.corrector is not None:
                # Without an earlier correction the start is also the state of the last evaluation.
                start = register("x1" if states and base is X else "start")
                if start.terms.keys() == {"start"}:
                    keep.append(("start", "c" if base is C else "x"))
        yield Step(sigma, tuple(work), tuple(keep))


def _check(rule: Derivative, order: int, new: int) -> None:
    if rule.rule in ("bh1", "bh2") and order != 1:
        raise ValueError(
            f"rule {rule.rule!r} is for the first derivative, got one of order {order}"
        )
    if rule.rule == "shifted" and order != 2:
        raise ValueError(f"rule 'shifted' is for the second derivative, got one of order {order}")
    allowed = "1, 2, ... and -1" if new else "1, 2, ..."
    if any(point < 1 and not (new and point == -1) for point in rule.points):
        raise ValueError(f"points must be among {allowed}, got {rule.points}")
    if len(set(rule.points)) != len(rule.points) or len(rule.points) < order:
        raise ValueError(
            f"a derivative of order {order} needs {order} different points or more, got {rule.points}"
        )


def _check_reach(rules: Sequence[Derivative], i: int, available: int) -> None:
    furthest = max((point for rule in rules for point in rule.points), default=0)
    if furthest > available:
        raise ValueError(
            f"a rule at step {i} uses point {furthest}, and only {available} are before its start"
        )
