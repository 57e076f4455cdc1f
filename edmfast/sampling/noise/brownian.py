"""A Brownian path W as a function of (seed, time) by counters alone, the same at every number of steps.

In a cell [s, s + L] of `edmfast.sampling.noise.octaves` the path is Lévy's sum of independent normals z,

    W(s + L u) - W(s) = sqrt(L) (u z_0 + sum_j 2^(-j/2 - 1) hat(2^j u - k_j) z_(j, k_j)),   hat(v) = 1 - |2 v - 1|

over levels j = 0 ... 17, where k_j = floor(2^j u) is the dyadic interval of length 2^-j that holds u. On the grid
of step 2^-18 L the sum is exact, and in between W is linear, so that a rounded time meets nearly the same W. The
increment W(b) - W(a) is the difference of two such sums plus one normal for each whole cell between. So increments
add up exactly. On the grid disjoint ones are independent, and each has the variance |b - a|; elsewhere these
covariances are off by at most half a step. An increment takes at most 38 nodes, and one for each cell between.

Octaves make the precision relative: one path serves every noise range, and its nodes do not depend on the range.
Source: Lévy 1948, his book on stochastic processes and Brownian motion (the construction by midpoints);
    Ciesielski 1961 (its Schauder functions).
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from edmfast.sampling.noise.independent import STREAM
from edmfast.sampling.noise.octaves import DEPTH, Place, length_of, place_of
from edmfast.sampling.noise.source import Nodes

# Independent draws have nodes below 2^32, so a path may share their stream and their seed.
_PATH, _TINY = 1 << 58, 1 << 59
_SIDE = 11  # bits of the number of a cell

COMMON_NODES = 44
"""A number of nodes that holds those of almost every increment: 38, and 6 cells between its ends."""

_LONG = 64
"""The number of steps of the grid from which an increment has the variance of its length to 0.8 % or better."""

Weights = dict[int, float]
"""The weight of every node of a linear combination of normals."""


def identity(sigma: float) -> float:
    """Return the noise level itself, the clock of k-diffusion's paths."""
    return sigma


@dataclass(frozen=True, eq=False)
class BrownianPath:
    """A source whose draw for an interval is the scaled increment (W(t) - W(s)) / sqrt(|t - s|) of one path.

    s = clock(sigma_from) and t = clock(sigma_to) are the times of the two noise levels. Where both are within one
    step of the grid, the draw is a normal that belongs to the interval. A reversed interval has the negative draw.
    A sampler that goes up and down over the same levels therefore meets the same path.

    seeds, first_sample: see `NoiseSource`. clock: a monotone function from noise levels to times.
    sign: 1, or -1 for the negative path.
    """

    seeds: Tensor
    first_sample: int = 0
    clock: Callable[[float], float] = identity
    sign: int = 1
    stream: int = STREAM

    def nodes(self, call: int, sigma_from: float, sigma_to: float) -> Nodes:
        """Return the nodes and weights of the interval's unit normal, whatever the number of the call is.

        Raises ValueError where the clock gives a time that is not finite.
        """
        names, weights = unit_normal(*self.times(sigma_from, sigma_to))
        return names, weights if self.sign == 1 else tuple(-weight for weight in weights)

    def times(self, sigma_from: float, sigma_to: float) -> tuple[float, float]:
        """Return the times of two noise levels. Raises ValueError where one of them is not finite."""
        return self._time("sigma_from", sigma_from), self._time("sigma_to", sigma_to)

    def _time(self, name: str, sigma: float) -> float:
        time = float(self.clock(sigma))
        if not math.isfinite(time):
            raise ValueError(f"{name} must have a finite time, got {time} at noise level {sigma}")
        return time


# Runs of other seeds have the same weights, which take longer to compute than a draw of small states.
@functools.lru_cache(maxsize=4096)
def unit_normal(start: float, end: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the nodes and weights of (W(end) - W(start)) / sqrt(|end - start|).

    Short increments, of less than 64 steps of the grid, are divided by their standard deviation instead.
    """
    weights = increment(start, end)
    if start == end:
        return tuple(weights), (1.0,)
    variance = abs(end - start)
    if not is_long(start, end):
        variance = math.fsum(weight**2 for weight in weights.values())
    scale = 1 / math.sqrt(variance)
    return tuple(weights), tuple(scale * weight for weight in weights.values())


def is_long(start: float, end: float) -> bool:
    """Return whether an interval has so many steps that its increment counts as one of its exact length."""
    return abs(end - start) >= _LONG * max(place_of(start).spacing, place_of(end).spacing)


def increment(start: float, end: float) -> Weights:
    """Return the weights of nodes of W(end) - W(start).

    Where both times are within one step of the grid, it is a normal of the interval's own with its variance.
    """
    a, b = place_of(start), place_of(end)
    if a[:2] == b[:2] and int(a.steps) == int(b.steps):
        length = abs(end - start)
        return {_own_node(start, end): math.copysign(math.sqrt(length), end - start)}
    weights: Weights = dict(cells_between(a, b))
    add(weights, bridge(b), 1.0)
    add(weights, bridge(a), -1.0)
    return {node: weight for node, weight in weights.items() if weight}


def add(weights: Weights, pairs: Iterable[tuple[int, float]], sign: float) -> None:
    """Add the pairs (node, weight) with a sign to the weights of a combination."""
    for node, weight in pairs:
        weights[node] = weights.get(node, 0.0) + sign * weight


@functools.lru_cache(maxsize=4096)
def bridge(place: Place) -> tuple[tuple[int, float], ...]:
    """Return the nodes and weights of W(place) - W(start of its cell)."""
    if not place.steps:
        return ()
    root = math.sqrt(length_of(place.cell))
    pairs = [(_node(place, 0), root * math.ldexp(place.steps, -DEPTH))]
    for level in range(DEPTH):
        interval, rest = divmod(place.steps, 1 << (DEPTH - level))
        # The place is a corner of this level, so the hats of all further levels vanish there.
        if not rest:
            break
        hat = 1.0 - abs(math.ldexp(rest, level + 1 - DEPTH) - 1.0)
        node = _node(place, (1 << level) + int(interval))
        pairs.append((node, root * 2 ** (-level / 2 - 1) * hat))
    return tuple(pairs)


def cells_between(a: Place, b: Place) -> list[tuple[int, float]]:
    """Return the nodes and weights of the path from the start of a's cell to the start of b's cell."""
    if a.negative == b.negative:
        first, last = sorted((a.cell, b.cell))
        sign = 1.0 if a.cell <= b.cell else -1.0
        return [_whole(b.negative, cell, sign) for cell in range(first, last)]
    # The two sides of 0 are independent, and the path starts at 0.
    towards_zero = [_whole(a.negative, cell, -1.0) for cell in range(a.cell)]
    return towards_zero + [_whole(b.negative, cell, 1.0) for cell in range(b.cell)]


def _whole(negative: bool, cell: int, sign: float) -> tuple[int, float]:
    return _node(Place(negative, cell, 0.0), 0), sign * math.sqrt(length_of(cell))


def _node(place: Place, index: int) -> int:
    """Return a node of the place's cell: 0 is its whole increment, and 2^j + k the hat of level j at k 2^-j."""
    cell = (int(place.negative) << _SIDE) + place.cell
    return _PATH | cell << DEPTH | index


def _own_node(start: float, end: float) -> int:
    """Return the node of an interval that is too short for the grid, in either direction."""
    key = struct.pack("<2d", *sorted((start, end)))
    return _TINY | int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) >> 6
