"""The coefficients of a run of DPM-Solver-v3: integrals of its statistics over every step, element by element.

The integrals go through the statistics piece by piece, with Gauss and Legendre's rule in each piece, in float64.
The factor exp(L) is carried relative to the end of a piece, so that it cannot overflow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from edmfast.sampling.solvers.shared.taylor import difference_weights
from edmfast.sampling.v3.statistics import DPMSolverV3Statistics

LONGEST = 0.5
"""The longest piece in lambda."""
_PLACES, _RULE = np.polynomial.legendre.leggauss(8)
PLACES, RULE = (_PLACES + 1) / 2, _RULE / 2


def _partial_rule() -> np.ndarray:
    """Return Q [8, 8] with sum_j Q_mj f(place_j) = the integral of f from 0 to place_m, for polynomials f."""
    powers = np.arange(8)
    values = PLACES[:, None] ** powers
    integrals = PLACES[:, None] ** (powers + 1) / (powers + 1)
    partial: np.ndarray = np.linalg.solve(values.T, integrals.T).T
    return partial


PARTIAL = _partial_rule()


@dataclass(frozen=True)
class Integrals:
    """Integrals from a start to an end in lambda, each [*shape].

    decay: exp(-L). growth: S. rest: B. moments: exp(-L) times the integrals of exp(L + S) (lambda - start)^k / k!.
    shift: exp(-L) times the integral of exp(L + S) B.
    """

    decay: Tensor
    growth: Tensor
    rest: Tensor
    moments: tuple[Tensor, ...]
    shift: Tensor


def integrals(statistics: DPMSolverV3Statistics, start: float, end: float, count: int) -> Integrals:
    """Return the integrals of a step, which may also go down in lambda, with `count` moments."""
    zero = torch.zeros_like(statistics.l[0])
    total, growth, rest, shift = zero, zero, zero, zero
    moments = [zero] * count
    places, rule, partial = (zero.new_tensor(a) for a in (PLACES, RULE, PARTIAL))
    for low, high in _pieces(statistics.lambdas, start, end):
        length = high - low
        values = [statistics.at(low + length * place) for place in PLACES.tolist()]
        l, s, b = (torch.stack(rows) for rows in zip(*values, strict=True))  # noqa: E741, the source's name
        inner_growth = growth + length * torch.tensordot(partial, s, 1)
        flow = b * torch.exp(-inner_growth)
        inner_rest = rest + length * torch.tensordot(partial, flow, 1)
        whole = length * torch.tensordot(rule, l, 1)
        kernel = torch.exp(length * torch.tensordot(partial, l, 1) - whole + inner_growth)
        decay = torch.exp(-whole)
        offsets = low - start + length * places
        for k in range(count):
            weights = length * rule * offsets**k / math.factorial(k)
            moments[k] = decay * moments[k] + torch.tensordot(weights, kernel, 1)
        shift = decay * shift + length * torch.tensordot(rule, kernel * inner_rest, 1)
        growth = growth + length * torch.tensordot(rule, s, 1)
        rest = rest + length * torch.tensordot(rule, flow, 1)
        total = total + whole
    return Integrals(torch.exp(-total), growth, rest, tuple(moments), shift)


def _pieces(knots: Sequence[float], start: float, end: float) -> list[tuple[float, float]]:
    inside = sorted(knot for knot in knots if min(start, end) < knot < max(start, end))
    ends = [start, *(inside if end > start else inside[::-1]), end]
    pieces = []
    for low, high in pairwise(ends):
        parts = math.ceil(abs(high - low) / LONGEST)
        cuts = [low + (high - low) * k / parts for k in range(parts + 1)]
        pieces += list(pairwise(cuts))
    return pieces


@dataclass(frozen=True)
class Move:
    """A step x' = decay x + constant - sum_j factors_j f_j, with the remainders f_j of the chosen evaluations.

    points: the evaluations of the factors: 0 is at the start of the step, 1 the one before, and -1 at its end.
    """

    decay: Tensor
    constant: Tensor
    points: tuple[int, ...]
    factors: tuple[Tensor, ...]


def move(
    statistics: DPMSolverV3Statistics, lambdas: dict[int, float], end: float, points: Sequence[int]
) -> Move:
    """Return the step from lambdas[0] to `end` that interpolates g at the start and at other points.

    lambdas: the places of the evaluations by number.
    """
    start, h = lambdas[0], end - lambdas[0]
    parts = integrals(statistics, start, end, len(points) + 1)
    first, constant = parts.moments[0], -parts.shift
    factors = [torch.zeros_like(first) for _ in points]
    gaps = [(lambdas[point] - start) / h for point in points]
    past = [integrals(statistics, start, lambdas[point], 0) for point in points]
    for k, moment in enumerate(parts.moments[1:], 1):
        for j, weight in enumerate(difference_weights(gaps, k)):
            share = weight / h**k * moment
            # g_j = exp(-S_j) f_j - B_j, and its difference with f_0 enters the derivative.
            factors[j] = factors[j] + share * torch.exp(-past[j].growth)
            constant = constant + share * past[j].rest
            first = first - share
    return Move(parts.decay, constant, (0, *points), (first, *factors))
