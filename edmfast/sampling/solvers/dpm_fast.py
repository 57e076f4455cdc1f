"""DPM-Solver-fast: steps of order 3, and a last one or two of lower order that use up the number of model calls.

The levels are evenly spaced in t = -ln sigma. With eta > 0 the move of a step goes beyond its next level, and
fresh noise brings the states back. Source: Lu et al. 2022, "DPM-Solver", arXiv 2206.00927, section 3.4; the
ancestral noise is k-diffusion's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from edmfast._internal.numbers import as_float, as_int
from edmfast.sampling.engine import Call, Combine, Expression, Solver, Step, register
from edmfast.sampling.solvers.shared.dpm_solver_steps import R1, R2, SingleStep, ancestral_move
from edmfast.sampling.solvers.shared.fields import as_items, hold, hold_noise


@dataclass(frozen=True)
class DPMSolverFast(Solver):
    """DPM-Solver-fast in n calls, over one level more than `orders_of(n)` has entries.

    eta: 0 gives the ODE, and 1 ancestral noise. s_noise: a factor on the fresh noise.
    dtype: the dtype in which the coefficients are computed.
    times: the levels as -ln sigma, where these are known to more digits than the levels.
    Source: Lu et al. 2022, arXiv 2206.00927, section 3.4; the ancestral noise is that of k-diffusion.
    Raises TypeError for a setting of another type, and ValueError for one that is out of range.
    """

    n: int
    eta: float = 0.0
    s_noise: float = 1.0
    dtype: torch.dtype = torch.float64
    times: tuple[float, ...] = ()
    slope_first = True

    def __post_init__(self) -> None:
        hold(self, n=as_int("n", self.n, least=1))
        hold_noise(self)
        if not isinstance(self.dtype, torch.dtype) or not self.dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating-point torch.dtype, got {self.dtype!r}")
        times = tuple(as_float("times", time) for time in as_items("times", self.times))
        needed = len(orders_of(self.n)) + 1
        if times and len(times) != needed:
            raise ValueError(
                f"times must be empty or [{needed}] for n = {self.n}, got [{len(times)}]"
            )
        hold(self, times=times)

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        orders = orders_of(self.n)
        if len(levels) != len(orders) + 1:
            raise ValueError(
                f"DPMSolverFast({self.n}) makes {len(orders)} steps: sigmas must be [{len(orders) + 1}], got "
                f"[{len(levels)}]"
            )
        times = self.times or tuple(-math.log(level) for level in levels)
        ts = torch.tensor(times, dtype=self.dtype, device="cpu").unbind()
        for i, order in enumerate(orders):
            end, fresh = ancestral_move(ts[i], ts[i + 1], ts[-1], self.eta)
            *work, last = _work(order, SingleStep(ts[i], end))
            assert isinstance(last, Combine)
            noise = (float(fresh * self.s_noise), (levels[i], levels[i + 1]), bool(fresh > 0))
            yield Step(float(ts[i].neg().exp()), (*work, Combine("x", last.value, *noise)))


def orders_of(n: int) -> list[int]:
    """Return the orders of the steps, which sum to the number n of model calls."""
    full, rest = divmod(n, 3)
    return [3] * full + [rest] if rest else [3] * (full - 1) + [2, 1]


def _work(order: int, step: SingleStep) -> Iterator[Call | Combine]:
    """Yield the work of a step of order 1, 2 or 3, without noise."""
    r1 = 0.5 if order == 2 else R1
    slopes = {
        name: (register(states) - register(denoised)) / float(step.sigma(r))
        for name, states, denoised, r in (
            ("eps", "x", "D", 0.0),
            ("eps_r1", "u1", "D_u1", r1),
            ("eps_r2", "u2", "D_u2", R2),
        )
    }

    def combine(out: str, value: Expression) -> Combine:
        total = Expression({})
        for name, coefficient in value.terms.items():
            total = total + coefficient * slopes.get(name, register(name))
        return Combine(out, total)

    yield Call(float(step.sigma(0.0)))
    if order > 1:
        yield combine("u1", step.first(r1))
        yield Call(float(step.sigma(r1)), "u1", "D_u1")
    if order > 2:
        yield combine("u2", step.third_stage())
        yield Call(float(step.sigma(R2)), "u2", "D_u2")
    yield combine("x", (step.first(), step.second(), step.third())[order - 1])
