"""The controller of step sizes of adaptive samplers, a PID controller in the logarithm of the error.

With the inverse errors e_n of this step and of the last two accepted ones, the step size is multiplied by

    1 + atan(e_n^b1 e_(n-1)^b2 e_(n-2)^b3 - 1),

b1 = (p + i + d) / order, b2 = -(p + 2 d) / order, b3 = d / order. The step is accepted where this factor is at
least `accept_safety`. Sources: Söderlind 2003, "Digital filters in adaptive time-stepping"; the arguments are
those of k-diffusion's class.
"""

from __future__ import annotations

import math
from typing import Any

from edmfast._internal.numbers import as_float

_SMALLEST = 1e-30
"""The smallest inverse error."""


class PIDStepSizeController:
    """A PID controller of the step size h.

    Args:
        h: the first step size, which may be negative.
        pcoeff, icoeff, dcoeff: the proportional, integral and differential coefficients.
        order: the order of the method, by which the coefficients are divided.
        accept_safety: the smallest factor at which a step is accepted.
        eps: added to the error, so that no error at all gives a finite step.

    Attributes:
        h: the step size to try next.

    Raises:
        TypeError: an argument that is no number.
        ValueError: NaN, infinity, or an order or eps that is not positive.
    """

    def __init__(
        self,
        h: float,
        pcoeff: float,
        icoeff: float,
        dcoeff: float,
        order: float = 1,
        accept_safety: float = 0.81,
        eps: float = 1e-8,
    ) -> None:
        self.h = as_float("h", h)
        p, i, d = (
            as_float(name, value)
            for name, value in (("pcoeff", pcoeff), ("icoeff", icoeff), ("dcoeff", dcoeff))
        )
        order = as_float("order", order, positive=True)
        self.b1, self.b2, self.b3 = (p + i + d) / order, -(p + 2 * d) / order, d / order
        self.accept_safety = as_float("accept_safety", accept_safety)
        self.eps = as_float("eps", eps, positive=True)
        self.errs: list[float] = []

    def limiter(self, x: float) -> float:
        """Return 1 + atan(x - 1), which keeps the factor between 0.21 and 2.6."""
        return 1 + math.atan(x - 1)

    def propose_step(self, error: Any) -> bool:
        """Return whether the step is accepted, and set h for the next one.

        error: a number or a tensor without dimensions, 1 where the error just fits the tolerances.

        Raises TypeError for an error that is no number, and ValueError for a negative one or NaN.
        """
        # An infinite error counts as a huge one, because the powers of 0 may not exist.
        inverse = max(1 / (as_float("error", error, least=0, finite=False) + self.eps), _SMALLEST)
        if not self.errs:
            self.errs = [inverse] * 3
        self.errs[0] = inverse
        now, last, before = self.errs
        factor = self.limiter(now**self.b1 * last**self.b2 * before**self.b3)
        accept = factor >= self.accept_safety
        if accept:
            self.errs = [now, now, last]
        self.h *= factor
        return accept
