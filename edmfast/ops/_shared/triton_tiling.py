"""Host side: cut samples [P, N, d] into tiles of particles by counters, one tile for each program."""

from __future__ import annotations

from typing import NamedTuple

import triton

_COUNTERS = 256


class Tiling(NamedTuple):
    """A tile of `rows` particles of one population by `columns` counters, both powers of two."""

    rows: int
    columns: int
    warps: int


def tiling(particles: int, blocks: int) -> Tiling:
    """Return the tiles for populations of so many particles, whose samples take `blocks` = ceil(d / 4) counters.

    Each thread gets one counter, whose four elements fill its registers.
    """
    columns = min(triton.next_power_of_2(blocks), _COUNTERS)
    rows = min(triton.next_power_of_2(particles), _COUNTERS // columns)
    return Tiling(rows, columns, max(1, rows * columns // 32))
