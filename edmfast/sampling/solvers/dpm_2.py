"""k-diffusion's DPM-2, a midpoint rule, and its ancestral form.

With the slope d = (x - D) / sigma and the level sigma_mid = sqrt(sigma sigma_next),

    x_mid = x + (sigma_mid - sigma) d,    x' = x + (sigma_next - sigma) (x_mid - D(x_mid; sigma_mid)) / sigma_mid.

Sources: Lu et al. 2022, "DPM-Solver", arXiv 2206.00927 (the midpoint in ln sigma); Karras et al. 2022, arXiv
2206.00364, algorithm 2 (churn). The methods are those of k-diffusion's functions of these names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from edmfast.sampling.engine import Call, Combine, Solver, Step, register
from edmfast.sampling.solvers.churn import NO_CHURN, Churn, check_churn
from edmfast.sampling.solvers.euler import euler_step
from edmfast.sampling.solvers.shared.fields import hold_noise
from edmfast.sampling.steps import get_ancestral_step

X, MID, D_MID = register("x"), register("mid"), register("D_mid")


@dataclass(frozen=True)
class DPM2(Solver):
    """DPM-2, of second order, in two calls a step, or one where the step ends at 0, with optional churn.

    churn: the settings of the churn. Source: Lu et al. 2022, arXiv 2206.00927.
    Raises TypeError for a churn of another type.
    """

    churn: Churn = NO_CHURN
    slope_first = True

    def __post_init__(self) -> None:
        check_churn(self.churn)

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        for i, sigma in enumerate(levels[:-1]):
            raised, work = self.churn.at(levels, i)
            yield Step(sigma, (*work, *_work(raised, levels[i + 1])), sigma_hat=raised)


@dataclass(frozen=True)
class AncestralDPM2(Solver):
    """Ancestral sampling with steps of DPM-2, in two calls a step, or one where the move ends at 0.

    eta: 1 gives ancestral sampling, and 0 gives the ODE. s_noise: a factor on the fresh noise.
    Source: Lu et al. 2022, arXiv 2206.00927 (the midpoint); the method is that of k-diffusion.
    Raises TypeError for a setting of another type, and ValueError for one that is out of range.
    """

    eta: float = 1.0
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        hold_noise(self, finite=False)

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        for sigma, sigma_next in pairwise(levels):
            down, up = get_ancestral_step(sigma, sigma_next, self.eta)
            # A move to 0 gets no noise in k-diffusion, even where an eta above 1 makes one
            # between positive levels.
            noise = (
                (0.0, (0.0, 0.0), False)
                if down == 0
                else (self.s_noise * up, (sigma, sigma_next), up > 0)
            )
            yield Step(sigma, _work(sigma, down, *noise))


def _work(
    sigma: float,
    end: float,
    noise: float = 0.0,
    interval: tuple[float, float] = (0.0, 0.0),
    always: bool = False,
) -> tuple[Call | Combine, ...]:
    """Return the work of a move from sigma to `end`, with fresh noise in its last combination."""
    if end == 0:
        # There is no slope at 0, where the step of first order is exact for a constant denoiser.
        return (Call(sigma), Combine("x", euler_step(sigma, 0.0)))
    mid = math.sqrt(sigma * end)
    move = X + (end - sigma) * ((MID - D_MID) / mid)
    return (
        Call(sigma),
        Combine("mid", euler_step(sigma, mid)),
        Call(mid, state="mid", out="D_mid"),
        Combine("x", move, noise, interval, always),
    )
