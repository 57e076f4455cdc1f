"""The time axis of a Brownian path: octaves with a grid of 2^16 points each, and the point next to a time.

The positive times have the cells [2^e, 2^(e + 1)) for e from -30 on, and one cell [0, 2^-30) below them. The
negative times mirror them. A cell of length L has the points start + L k / 2^16, so the grid is relative: a time
of at least 2^-30 moves by at most 2^-17 of itself, whatever the range of a run is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

DEPTH = 16
"""The number of times that a cell is halved."""

POINTS = 1 << DEPTH

LOWEST = -30
"""The exponent of the first octave. Times below 2^LOWEST share a cell."""


class Point(NamedTuple):
    """A point of the grid.

    negative: the time is below 0, and cell and place count from 0 downwards.
    cell: 0 for the cell next to 0, and 1 + e - LOWEST for the octave of 2^e.
    place: the number of the point in its cell, from 0 to POINTS - 1.
    """

    negative: bool
    cell: int
    place: int


def start_of(cell: int) -> float:
    """Return the distance from 0 at which a cell starts."""
    return math.ldexp(1.0, LOWEST + cell - 1) if cell else 0.0


def length_of(cell: int) -> float:
    """Return the length of a cell."""
    return math.ldexp(1.0, LOWEST + max(cell - 1, 0))


def nearest(time: float) -> Point:
    """Return the point of the grid next to a finite time."""
    distance = abs(time)
    cell = max(math.frexp(distance)[1] - LOWEST, 0) if distance else 0
    place = round((distance - start_of(cell)) / length_of(cell) * POINTS)
    if place == POINTS:
        cell, place = cell + 1, 0
    # 0 is one point, which has no sign.
    return Point(time < 0 and (cell, place) != (0, 0), cell, place)


def time_of(point: Point) -> float:
    """Return the time of a point, which float64 holds exactly."""
    distance = start_of(point.cell) + length_of(point.cell) * (point.place / POINTS)
    return -distance if point.negative else distance
