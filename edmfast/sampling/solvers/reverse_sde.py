"""The family of reverse SDEs that have the marginal densities of the ODE, by the method of Euler and Maruyama.

With the score s(x) = (D - x) / sigma², a step from sigma to u and delta = (sigma² - u²) / 2,

    x' = x + (1 + eta) delta s(x) + sqrt(2 eta delta) z,   z standard normal.

eta = 0 is the ODE in the variable sigma², and eta = 1 the reverse of the diffusion.
Source: Song et al. 2021, arXiv 2011.13456; Karras et al. 2022, arXiv 2206.00364, equation 6 (the family).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from edmfast.sampling.engine import Call, Combine, Solver, Step, register
from edmfast.sampling.solvers.shared.fields import check_falling, hold_noise

X, D = register("x"), register("D")


@dataclass(frozen=True)
class ReverseSDE(Solver):
    """The reverse SDE of a noise rate eta, of order 1 in law, in one call a step.

    eta: how much noise is added and removed: 0 for the ODE, where levels may increase, and 1 for the reverse of
        the diffusion; more is possible. A step to 0 ends at the denoised states.
    s_noise: a factor on the fresh noise.

    Source: Song et al. 2021, arXiv 2011.13456.
    Raises TypeError for a setting that is no number, and ValueError for one that is negative.
    """

    eta: float = 1.0
    s_noise: float = 1.0
    brownian = True

    def __post_init__(self) -> None:
        hold_noise(self)

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        for sigma, level in pairwise(levels):
            delta = (sigma - level) * (sigma + level) / 2
            check_falling(self.eta, sigma, level)
            if level == 0:
                yield Step(sigma, (Call(sigma), Combine("x", D)))
                continue
            move = X + (1 + self.eta) * delta / sigma**2 * (D - X)
            noise = self.s_noise * math.sqrt(2 * self.eta * delta) if self.eta else 0.0
            yield Step(sigma, (Call(sigma), Combine("x", move, noise, (sigma, level))))
