"""The linear multistep method in sigma: Adams and Bashforth's with steps of any lengths.

The slopes d_i = (x_i - D_i) / sigma_i of the last k steps define a polynomial, whose integral over the next step
is a sum of the slopes with fixed weights:

    x' = x + sum_j c_j d_(i-j),    c_j = integral from sigma_i to sigma_(i+1) of the Lagrange polynomial of node j.

The first steps use the slopes that there are. Sources: Adams and Bashforth 1883; the order of the slopes and of
the callback is that of k-diffusion's `sample_lms`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edmfast._internal.numbers import as_int
from edmfast.sampling.engine import Call, Combine, Solver, Step, register
from edmfast.sampling.solvers.shared.fields import hold


@dataclass(frozen=True)
class LinearMultistep(Solver):
    """The linear multistep method (Adams–Bashforth) over the actual grid, in one call a step.

    order: from 1 to 7. The first steps have lower orders. Source: Adams and Bashforth 1883.
    Raises TypeError for an order that is no integer, and ValueError for one that is out of range.
    """

    order: int = 4
    slope_first = True

    def __post_init__(self) -> None:
        hold(self, order=as_int("order", self.order, least=1, most=7))

    def steps(self, levels: tuple[float, ...]) -> Iterator[Step]:
        slopes = ["d", *(f"d{j}" for j in range(1, self.order))]
        keep = tuple(zip(slopes[1:], slopes, strict=False))
        x, denoised = register("x"), register("D")
        for i, sigma in enumerate(levels[:-1]):
            nodes = levels[max(0, i + 1 - self.order) : i + 1][::-1]
            move = x
            for name, weight in zip(slopes, integrals(nodes, sigma, levels[i + 1]), strict=False):
                move = move + weight * register(name)
            slope = Combine("d", (x - denoised) / sigma)
            yield Step(sigma, (Call(sigma), slope, Combine("x", move)), keep[: i + 1])


def integrals(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """Return the integrals from start to end of the Lagrange polynomials of distinct nodes, one for each node."""
    # This many points of Gauss's rule integrate polynomials of degree len(nodes) - 1 exactly.
    points, weights = np.polynomial.legendre.leggauss((len(nodes) + 1) // 2)
    half = (end - start) / 2
    results = []
    for j, node in enumerate(nodes):
        others = [*nodes[:j], *nodes[j + 1 :]]
        values = [
            math.prod((start + half * (1 + point) - other) / (node - other) for other in others)
            for point in points.tolist()
        ]
        results.append(
            half * math.fsum(w * v for w, v in zip(weights.tolist(), values, strict=True))
        )
    return results
