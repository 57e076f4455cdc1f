"""DPM-Solver++(2M), which extrapolates the denoised states from the last step.

In lambda = -ln sigma, with h = lambda_next - lambda and r = h_previous / h,

    x' = (sigma_next / sigma) x - (exp(-h) - 1) D',   D' = D + (D - D_previous) / (2 r).

Source: Lu et al. 2022, "DPM-Solver++", arXiv 2211.01095, algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edmfast.sampling.engine import Call, Combine, Solver, Step, register

X, D, D1 = register("x"), register("D"), register("D1")


@dataclass(frozen=True)
class DPMSolverPP2M(Solver):
    """DPM-Solver++(2M), of second order, in one call a step; the first step and a step to 0 are of first order.

    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 2.
    """

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        for i, sigma in enumerate(levels[:-1]):
            sigma_next, target = levels[i + 1], D
            # A step to 0 has an infinite h, for which the extrapolation diverges.
            if i > 0 and sigma_next > 0:
                h, h_previous = math.log(sigma / sigma_next), math.log(levels[i - 1] / sigma)
                target = D + h / (2 * h_previous) * (D - D1)
            ratio = sigma_next / sigma
            move = Combine("x", ratio * X + (1 - ratio) * target)
            yield Step(sigma, (Call(sigma), move), keep=(("D1", "D"),))
