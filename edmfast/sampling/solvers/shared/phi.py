"""The functions phi_k of exponential integrators, accurate near 0, where their recursion would cancel.

phi_0(z) = exp(z) and phi_(k+1)(z) = (phi_k(z) - 1/k!) / z, so phi_k(0) = 1/k!. A step of length h of an
exponential method is a sum of h phi_k(-h) times derivatives. Source: Hochbruck and Ostermann 2010, "Exponential
integrators", equation 2.9.
"""

from __future__ import annotations

import math

_NEAR = 1.0
"""Within this distance of 0 the Taylor series is used, whose 24 terms reach full precision there."""


def phi(k: int, z: float) -> float:
    """Return phi_k(z) for k >= 0."""
    if abs(z) < _NEAR:
        return math.fsum(z**j / math.factorial(j + k) for j in range(24))
    if k == 0:
        return math.exp(z)
    value = math.expm1(z) / z
    for j in range(1, k):
        value = (value - 1 / math.factorial(j)) / z
    return value
