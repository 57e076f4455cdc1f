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

from edmfast.sampling.engine import Combine, Solver, Step
from edmfast.sampling.solvers.dpm_solver_steps import SingleStep, ancestral_move


@dataclass(frozen=True)
class DPMSolverFast(Solver):
    """DPM-Solver-fast in n calls, over one level more than `orders_of(n)` has entries.

    eta: 0 gives the ODE, and 1 ancestral noise. s_noise: a factor on the fresh noise. dtype: the dtype in which
    coefficients are computed.
    times: the levels as -ln sigma, where these are known to more digits than the levels.
    """

    n: int
    eta: float = 0.0
    s_noise: float = 1.0
    dtype: torch.dtype = torch.float64
    times: tuple[float, ...] = ()
    slope_first = True

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        times = self.times or tuple(-math.log(level) for level in levels)
        ts = torch.tensor(times, dtype=self.dtype, device="cpu").unbind()
        for i, order in enumerate(orders_of(self.n)):
            end, fresh = ancestral_move(ts[i], ts[i + 1], ts[-1], self.eta)
            single = SingleStep(ts[i], end)
            before, value = single.work(order)
            interval = (levels[i], levels[i + 1])
            last = Combine("x", value, self.s_noise * fresh, interval, always=fresh > 0)
            yield Step(single.sigma(), (*before, last))


def orders_of(n: int) -> list[int]:
    """Return the orders of the steps, which sum to the number n of model calls."""
    full, rest = divmod(n, 3)
    return [3] * full + [rest] if rest else [3] * (full - 1) + [2, 1]
