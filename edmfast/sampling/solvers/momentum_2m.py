"""DPM-Solver++(2M) with Polyak's heavy ball.

With D' = D + (D - D_previous) / (2 r) the extrapolated denoised states of DPM-Solver++(2M) and a damping beta,

    v = (1 - beta) v + beta D',   x' = (sigma_next / sigma) x - (exp(-h) - 1) v.

The first step is one of first order without momentum, and the first v is the D' of the second step.
Source: Wizadwongsa et al. 2023, arXiv 2307.11118.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edmfast._internal.numbers import as_float
from edmfast.sampling.engine import Call, Combine, Solver, Step, register
from edmfast.sampling.solvers.shared.fields import hold

X, D, D1, V, V1 = (register(name) for name in ("x", "D", "D1", "v", "v1"))


@dataclass(frozen=True)
class DPMSolverPP2MHeavyBall(Solver):
    """DPM-Solver++(2M) with momentum, in one call a step. Momentum costs accuracy and damps divergence.

    beta: the damping, above 0 and at most 1, which is DPM-Solver++(2M) itself. With less than 1 the order of
        accuracy is 1. A step to 0 ends at the denoised states.

    Source: Wizadwongsa et al. 2023, arXiv 2307.11118.
    Raises TypeError for a beta that is no number, and ValueError for one that is out of range.
    """

    beta: float = 0.8

    def __post_init__(self) -> None:
        hold(self, beta=as_float("beta", self.beta, positive=True, most=1))

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        for i, sigma in enumerate(levels[:-1]):
            ratio = levels[i + 1] / sigma
            work: list[Call | Combine] = [Call(sigma)]
            keep, target = [("D1", "D")], D
            if i > 0 and ratio > 0:
                extrapolated = D - 0.5 * math.log(ratio) / math.log(levels[i - 1] / sigma) * (
                    D - D1
                )
                if i > 1:
                    extrapolated = (1 - self.beta) * V1 + self.beta * extrapolated
                work.append(Combine("v", extrapolated))
                keep.append(("v1", "v"))
                target = V
            work.append(Combine("x", ratio * X + (1 - ratio) * target))
            yield Step(sigma, tuple(work), tuple(keep))
