"""The singlestep stochastic solvers of DPM-Solver++: the ancestral 2S and the solver of `sample_dpmpp_sde`.

A move of the ODE from sigma to the level v with the denoised states held at D is exact:

    x_v = (v / sigma) x + (1 - v / sigma) D.

Ancestral 2S makes such a move to the middle of ln sigma, and then the whole move with the states denoised there.
The SDE solver also adds noise on the way to its middle, and moves on with a mean of both denoised states.
Sources: Lu et al. 2022, "DPM-Solver++", arXiv 2211.01095, algorithm 1; Song et al. 2021, arXiv 2010.02502 (eta).
The methods are those of k-diffusion's functions of these names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from edmfast._internal.numbers import as_float
from edmfast.sampling.engine import Call, Combine, Expression, Solver, Step, register
from edmfast.sampling.solvers.shared.fields import hold, hold_noise
from edmfast.sampling.steps import get_ancestral_step

X, D, D_MID = register("x"), register("D"), register("D_mid")


@dataclass(frozen=True)
class AncestralDPMSolverPP2S(Solver):
    """Ancestral sampling with steps of DPM-Solver++(2S), in two calls a step, or one where the move ends at 0.

    eta: 1 gives ancestral sampling, and 0 gives the ODE. s_noise: a factor on the fresh noise.
    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 1; Song et al. 2021, arXiv 2010.02502 (eta).
    Raises TypeError for a setting of another type, and ValueError for one that is out of range.
    """

    eta: float = 1.0
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        hold_noise(self, finite=False)

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        for sigma, sigma_next in pairwise(levels):
            down, up = get_ancestral_step(sigma, sigma_next, self.eta)
            noise = (self.s_noise * up, (sigma, sigma_next), up > 0)
            if down == 0:
                yield Step(sigma, (Call(sigma), Combine("x", _move(D, 0.0), *noise)))
                continue
            mid = math.sqrt(sigma * down)
            work = (
                Call(sigma),
                Combine("mid", _move(D, mid / sigma)),
                Call(mid, state="mid", out="D_mid"),
                Combine("x", _move(D_MID, down / sigma), *noise),
            )
            yield Step(sigma, work)


@dataclass(frozen=True)
class DPMSolverPPSDE(Solver):
    """The singlestep solver of the SDE, in two calls a step, or one where the step ends at 0.

    eta: 1 gives the SDE, and 0 gives the ODE. s_noise: a factor on the fresh noise. r: the place of the middle in
    the step of ln sigma, positive: 1 is the end of the step.
    Source: Lu et al. 2022, arXiv 2211.01095; the method is that of k-diffusion.
    Raises TypeError for a setting of another type, and ValueError for one that is out of range.
    """

    eta: float = 1.0
    s_noise: float = 1.0
    r: float = 0.5
    brownian = True

    def __post_init__(self) -> None:
        hold_noise(self, finite=False)
        hold(self, r=as_float("r", self.r, positive=True))

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        for sigma, sigma_next in pairwise(levels):
            if sigma_next == 0:
                yield Step(sigma, (Call(sigma), Combine("x", _move(D, 0.0))))
                continue
            mid = math.exp(math.log(sigma) + self.r * (math.log(sigma_next) - math.log(sigma)))
            target = D + (D_MID - D) / (2 * self.r)
            work = (
                Call(sigma),
                self._noisy("mid", D, sigma, mid),
                Call(mid, state="mid", out="D_mid"),
                self._noisy("x", target, sigma, sigma_next),
            )
            yield Step(sigma, work)

    def _noisy(self, out: str, target: Expression, sigma: float, end: float) -> Combine:
        """Return the ancestral move from x at sigma to the level `end`."""
        down, up = get_ancestral_step(sigma, end, self.eta)
        return Combine(out, _move(target, down / sigma), self.s_noise * up, (sigma, end), up > 0)


def _move(target: Expression, ratio: float) -> Expression:
    """Return the states whose noise has shrunk by the ratio, on the straight line from x to the target."""
    return ratio * X + (1 - ratio) * target
