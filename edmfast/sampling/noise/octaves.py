"""The time axis of a Brownian path: octaves that are halved 18 times, and the place of a time in its octave.

The positive times have the cells [2^e, 2^(e + 1)) for e from -30 on, and one cell [0, 2^-30) below them. The
negative times mirror them. A cell of length L has the grid start + L k / 2^18, so the grid is relative: from 2^-30
on, its spacing is at most 2^-18 of the time, whatever the range of a run is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

DEPTH = 18
"""The number of times that a cell is halved."""

LOWEST = -30
"""The exponent of the first octave. Times below 2^LOWEST share a cell."""


class Place(NamedTuple):
    """The place of a time.

    negative: the time is below 0, and cell and steps count from 0 downwards.
    cell: 0 for the cell next to 0, and 1 + e - LOWEST for the octave of 2^e.
    steps: the distance from the start of the cell in steps of the grid, from 0 to 2^DEPTH without the end.
    """

    negative: bool
    cell: int
    steps: float

    @property
    def spacing(self) -> float:
        """The length of one step of the grid."""
        return math.ldexp(length_of(self.cell), -DEPTH)


def start_of(cell: int) -> float:
    """Return the distance from 0 at which a cell starts."""
    return math.ldexp(1.0, LOWEST + cell - 1) if cell else 0.0


def length_of(cell: int) -> float:
    """Return the length of a cell."""
    return math.ldexp(1.0, LOWEST + max(cell - 1, 0))


def place_of(time: float) -> Place:
    """Return the place of a finite time, which float64 holds exactly."""
    distance = abs(time)
    cell = max(math.frexp(distance)[1] - LOWEST, 0) if distance else 0
    steps = math.ldexp((distance - start_of(cell)) / length_of(cell), DEPTH)
    return Place(time < 0, cell, steps)
