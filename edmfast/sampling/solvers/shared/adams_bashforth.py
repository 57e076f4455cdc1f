"""Adams–Bashforth coefficients, with the momentum of the generalised heavy ball.

For velocities v_j, j = 0 the latest, and a damping beta in (0, 1], the mean velocity of a step is
u = sum_j c_j(beta) v_j with c_j(beta) = (a_j + b_j beta) / (d beta). At beta = 1 these are the Adams–Bashforth
coefficients over a uniform grid. The sum of c_j is 1 for every beta.
Source: Wizadwongsa et al. 2023, "Diffusion sampling with momentum for mitigating divergence artifacts",
arXiv 2307.11118, table of appendix B.
"""

from __future__ import annotations

import math

from edmfast._internal.numbers import as_float

HIGHEST_ORDER = 5
_TABLE: dict[int, tuple[int, tuple[tuple[int, int], ...]]] = {
    1: (1, ((0, 1),)),
    2: (2, ((2, 1), (-2, 1))),
    3: (12, ((18, 5), (-24, 8), (6, -1))),
    4: (24, ((46, 9), (-78, 19), (42, -5), (-10, 1))),
    5: (720, ((1650, 251), (-3420, 646), (2880, -264), (-1380, 106), (270, -19))),
}


def coefficients(order: int, beta: float = 1.0) -> tuple[float, ...]:
    """Return c_0, ..., c_{order-1} for an order from 1 to 5."""
    divisor, terms = _TABLE[order]
    return tuple((a + b * beta) / (divisor * beta) for a, b in terms)


def fractional(order: float) -> tuple[int, float]:
    """Return (k, beta) of a fractional order: k = ceil(order), and beta the part after the point, or 1."""
    whole = math.ceil(order)
    return whole, 1.0 if order == whole else order - (whole - 1)


def as_order(value: object) -> float:
    """Return an order as a float. Raises TypeError for no number, ValueError outside of 0 < order <= 5."""
    return as_float("order", value, positive=True, most=HIGHEST_ORDER)
