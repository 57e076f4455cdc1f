"""The end of the real interval of stability of multistep solvers.

On x' = lambda x with steps h, a solver is a recurrence with z = h lambda: x_{n+1} - x_n = z U(w) x_n, where w
shifts one step back and U(w) = N(w) / (1 - (1 - beta) w). It is stable where all roots zeta = 1 / w are within the
unit circle. As z falls from 0, the first root leaves the circle at the negative real value of

    z(theta) = (exp(i theta) - 1) / U(exp(-i theta))

that is nearest to 0. Source: Wizadwongsa et al. 2023, arXiv 2307.11118, section 3.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable

from edmfast.sampling.engine import Solver
from edmfast.sampling.solvers.momentum import GHVB, IPNDM, HeavyBall, Nesterov
from edmfast.sampling.solvers.shared.adams_bashforth import coefficients, fractional

_ANGLES = 4096


def stability_end(solver: Solver) -> float:
    """Return the least z = h lambda < 0 up to which a solver is stable on x' = lambda x with equal steps h.

    The ends are -2 (2 - beta) / beta for GHVB(beta), -(2 - beta) for GHVB(1 + beta), -6 (2 - beta) / (12 - beta)
    for GHVB(2 + beta), and -3 (2 - beta) / (11 - beta) for GHVB(3 + beta). All are found numerically.
    Source: Wizadwongsa et al. 2023, arXiv 2307.11118.

    Args:
        solver: an `IPNDM`, `GHVB`, `HeavyBall` or `Nesterov`.

    Raises:
        TypeError: another solver.
    """
    if not isinstance(solver, (GHVB, HeavyBall, Nesterov, IPNDM)):
        raise TypeError(
            f"solver must be an IPNDM, GHVB, HeavyBall or Nesterov, got {type(solver).__name__}"
        )
    order, beta = fractional(float(solver.order))
    locus = _locus(solver, order, beta)
    angles = [math.pi * (k + 1) / _ANGLES for k in range(_ANGLES)]
    values = [locus(angle) for angle in angles]
    # At the angle pi all numbers are real.
    crossings = [values[-1].real]
    for k in range(_ANGLES - 2):
        if (values[k].imag < 0) != (values[k + 1].imag < 0):
            crossings.append(locus(_root(locus, angles[k], angles[k + 1])).real)
    return max(z for z in crossings if z < 0)


def _locus(solver: Solver, order: int, beta: float) -> Callable[[float], complex]:
    """Return z as a function of the angle of a root on the unit circle."""
    generalised = isinstance(solver, GHVB)
    shares = coefficients(order, beta) if generalised else coefficients(order)
    lag = 1 - beta

    def locus(angle: float) -> complex:
        back = cmath.exp(-1j * angle)
        numerator = beta * sum(share * back**j for j, share in enumerate(shares))
        if isinstance(solver, Nesterov):
            numerator *= 1 + lag - lag * back
        return (1 / back - 1) * (1 - lag * back) / numerator

    return locus


def _root(locus: Callable[[float], complex], low: float, high: float) -> float:
    """Return the angle at which the imaginary part changes its sign, by bisection."""
    negative = locus(low).imag < 0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (locus(middle).imag < 0) == negative else (low, middle)
    return low
