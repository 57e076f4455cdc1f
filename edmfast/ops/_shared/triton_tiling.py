"""How samples [P, N, d] are cut into tiles of particles by counters, one tile to a program."""

from __future__ import annotations

from typing import NamedTuple

import triton

_COUNTERS = 256


class Tiling(NamedTuple):
    """A tile is `rows` particles of one population by `columns` counters; both powers of two."""

    rows: int
    columns: int
    warps: int


def tiling(particles: int, blocks: int) -> Tiling:
    """blocks: ceil(d / 4), the counters of one sample.

    A counter is four elements, which keep a thread's registers busy: one of them to a thread.
    """
    columns = min(triton.next_power_of_2(blocks), _COUNTERS)
    rows = min(triton.next_power_of_2(particles), _COUNTERS // columns)
    return Tiling(rows, columns, max(1, rows * columns // 32))
