"""DPM-Solver and DPM-Solver++ of orders 1 to 3 whose steps forget the past.

A step of order p evaluates the denoiser at its start and at p - 1 inner levels, and takes Taylor steps (see
`taylor`) from its start to each of them and to its end. With nodes="inner" every interval of the grid is a step,
and its inner levels lie at fixed shares of it in lambda = -ln sigma. With nodes="grid" a step spans p intervals,
and its inner levels are those of the grid, so that every interval costs one call. Sources: Lu et al. 2022, arXiv
2206.00927, algorithms 1 and 2 (epsilon), and arXiv 2211.01095, algorithm 1 (denoised).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from edmfast._internal.numbers import as_bool, as_float, as_int
from edmfast.sampling.engine import Call, Combine, Expression, Solver, Step, register
from edmfast.sampling.solvers.shared.fields import (
    SolverType,
    as_items,
    check_choice,
    check_solver_type,
    check_threshold,
    hold,
    hold_noise,
)
from edmfast.sampling.solvers.shared.orders import singlestep_orders
from edmfast.sampling.solvers.shared.taylor import (
    PREDICTIONS,
    Derivative,
    Point,
    Prediction,
    step_noise,
    taylor_step,
)
from edmfast.sampling.solvers.thresholding import Threshold

X, D = register("x"), register("D")
# The registers of the states and denoised states at the first two levels of a step over the grid.
PLACES = (("x1", "D1"), ("x2", "D2"))


@dataclass(frozen=True)
class DPMSolverSinglestep(Solver):
    """DPM-Solver-1, 2S or 3S, or DPM-Solver++ of these kinds.

    A step to 0 is of first order. Sources: Lu et al. 2022, arXiv 2206.00927 and arXiv 2211.01095.

    Args:
        order: the order, 1 to 3.
        prediction: "denoised" for DPM-Solver++, or "epsilon" for DPM-Solver.
        nodes: "inner" for steps over one interval of the grid with inner levels, in `order` model calls a step; or
            "grid" for steps over `order` intervals, in one model call an interval.
        solver_type: "midpoint" or "heun": the last derivatives come from one inner level, or with "heun" from all
            of them without a change. The published singlestep solvers are midpoint forms.
        shares: the places of the inner levels in lambda, order - 1 rising numbers in (0, 1); None for 1/2, and for
            1/3 and 2/3. Only for nodes="inner".
        orders: the orders of the steps, which replace `order`. With nodes="grid" their sum is the number of
            intervals, and None gives the plan of `singlestep_orders`.
        stages: "exact" or "midpoint": the form of the step to the second inner level. diffusers uses "midpoint".
        eta: 0 for the ODE, 1 for the reverse SDE (diffusers' sde-dpmsolver++), which adds fresh noise to every
            inner state and to the end. Only for nodes="grid".
        s_noise: a factor on the fresh noise.
        shifted_third: subtract 1 from the last coefficient of the third order, as diffusers does with
            sde-dpmsolver++ and solver_type="heun". Use it only to reproduce its results.
        threshold: a function that is applied to the denoised states, such as `DynamicThreshold`, or None.

    Raises:
        TypeError: a setting of another type.
        ValueError: a setting that is not one of those above, or out of range.
    """

    order: int = 3
    prediction: Prediction = "denoised"
    nodes: Literal["inner", "grid"] = "inner"
    solver_type: SolverType = "midpoint"
    shares: tuple[float, ...] | None = None
    orders: tuple[int, ...] | None = None
    stages: Literal["exact", "midpoint"] = "exact"
    eta: float = 0.0
    s_noise: float = 1.0
    shifted_third: bool = False
    threshold: Threshold | None = None

    def __post_init__(self) -> None:
        check_choice("prediction", self.prediction, PREDICTIONS)
        check_choice("nodes", self.nodes, ("inner", "grid"))
        check_solver_type(self.solver_type)
        check_threshold(self.threshold)
        check_choice("stages", self.stages, ("exact", "midpoint"))
        hold(self, order=as_int("order", self.order, least=1, most=3))
        hold_noise(self)
        hold(self, shifted_third=as_bool("shifted_third", self.shifted_third))
        if self.eta and self.nodes == "inner":
            raise ValueError(f"eta must be 0 with nodes='inner', got {self.eta}")
        if self.orders is not None:
            orders = as_items("orders", self.orders)
            hold(self, orders=tuple(as_int("orders", p, least=1, most=3) for p in orders))
        if self.shares is not None:
            shares = as_items("shares", self.shares)
            hold(self, shares=tuple(as_float("shares", share) for share in shares))
            self._check_shares(self.shares)

    def _check_shares(self, shares: tuple[float, ...]) -> None:
        if self.nodes == "grid" or self.orders is not None or len(shares) != self.order - 1:
            raise ValueError(
                "shares must be None or order - 1 numbers, with nodes='inner' and without orders, "
                f"got {shares}"
            )
        if any(low >= high for low, high in pairwise((0.0, *shares, 1.0))):
            raise ValueError(f"shares must rise strictly inside (0, 1), got {shares}")

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        return self._over_grid(levels) if self.nodes == "grid" else self._over_intervals(levels)

    def _over_intervals(self, levels: tuple[float, ...]) -> Iterator[Step]:
        orders = self.orders or (self.order,) * (len(levels) - 1)
        if len(orders) != len(levels) - 1:
            raise ValueError(
                f"orders must have one entry for each of the {len(levels) - 1} steps of sigmas, got {orders}"
            )
        for i, order in enumerate(orders):
            sigma, sigma_next = levels[i], levels[i + 1]
            order = order if sigma_next > 0 else 1
            shares = self.shares or tuple(k / order for k in range(1, order))
            grid = [sigma * (sigma_next / sigma) ** share for share in shares[: order - 1]]
            points, work = [Point(sigma, X, D)], [Call(sigma)]
            rest: list[Call | Combine] = []
            for k, inner in enumerate(grid, 1):
                state = self._to(inner, points, last=False)
                rest += [Combine(f"u{k}", state), Call(inner, f"u{k}", f"D{k}")]
                # The state is a sum of x and denoised states, so later sums need not read it again.
                points.append(Point(inner, state, register(f"D{k}")))
            yield Step(sigma, (*work, *rest, Combine("x", self._to(sigma_next, points, last=True))))

    def _over_grid(self, levels: tuple[float, ...]) -> Iterator[Step]:
        for start, order in self._blocks(levels):
            for k in range(order):
                sigma, sigma_next = levels[start + k], levels[start + k + 1]
                names = [*PLACES[:k], ("x", "D")]
                points = [
                    Point(levels[start + j], register(state), register(denoised))
                    for j, (state, denoised) in enumerate(names)
                ]
                end = self._to(sigma_next, points, last=k == order - 1)
                interval = (levels[start], sigma_next)
                move = Combine("y", end, self._noise(*interval), interval)
                keep = [("x", "y")]
                if k < order - 1:
                    for places, held in zip(PLACES, names, strict=False):
                        keep += zip(places, held, strict=True)
                yield Step(sigma, (Call(sigma), move), tuple(keep))

    def _noise(self, sigma: float, sigma_next: float) -> float:
        if not self.eta:
            return 0.0
        return self.s_noise * step_noise(sigma, sigma_next, self.prediction, self.eta)

    def _blocks(self, levels: Sequence[float]) -> Iterator[tuple[int, int]]:
        """Yield (first level, order) of each step, of which one that would end at 0 gives up its last interval."""
        intervals = len(levels) - 1
        orders = self.orders or singlestep_orders(intervals, self.order)
        if sum(orders) != intervals:
            raise ValueError(
                f"orders must sum to {intervals}, the number of steps of sigmas, got {orders}"
            )
        if levels[-1] == 0 and orders[-1] > 1:
            orders = (*orders[:-1], orders[-1] - 1, 1)
        start = 0
        for order in orders:
            yield start, order
            start += order

    def _to(self, sigma_next: float, points: Sequence[Point], *, last: bool) -> Expression:
        """Return the states at a level from the evaluations of a step so far, of which the first is its start."""
        others = dict(enumerate(points[1:], 1))
        rules: tuple[Derivative, ...] = ()
        if len(others) == 1:
            relaxed = self.solver_type == "midpoint" if last else self.stages == "midpoint"
            rules = (Derivative((1,), "bh2" if relaxed else "exact"),)
        elif len(others) == 2 and self.solver_type == "midpoint":
            rules = (Derivative((2,)),)
        elif len(others) == 2:
            second = Derivative((1, 2), "shifted" if self.shifted_third else "exact", 1.0)
            rules = (Derivative((1, 2)), second)
        start = points[0]
        return taylor_step(start.state, start, sigma_next, self.prediction, rules, others, self.eta)
