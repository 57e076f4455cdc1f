"""Random signs from a counter in plain torch: the signs of the normals of `edmfast.ops.noise.reference`.

The upper bit of an angle is half a turn, which turns the signs of its cosine and sine. The next bit says whether
the rest is above a quarter turn, where the cosine is negative. A radius word of 2^32 - 128 or more rounds to a
radius of -0, which turns both signs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast.ops.noise.reference import counter_words

PATTERNS = 4
"""The number of probes that share a draw of signs."""


def negatives(radius_bits: Tensor, angle_bits: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether each normal of a Box-Muller pair is negative, from two 32-bit words held in int64."""
    turned = radius_bits >= 2**32 - 128
    half, quarter = angle_bits >> 31 != 0, angle_bits >> 30 & 1 != 0
    return half ^ quarter ^ turned, half ^ turned


def patterns(elements: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """Return the four patterns of signs, int64 [4, d]: 1, (-1)^(i+j), (-1)^i and (-1)^j in row i and column j."""
    place = torch.arange(elements, device=device)
    row, column = place // columns % rows % 2, place % columns % 2
    return 1 - 2 * torch.stack([torch.zeros_like(place), row ^ column, row, column])


def signs(
    like: Tensor,
    rng: Tensor,
    count: int,
    rows: int,
    columns: int,
    stream: int,
    first_population: int,
    first_particle: int,
) -> Tensor:
    """Return signs [P, N, count, d] in the dtype of `like` [P, N, d]; `rng` is int64 [2] = (seed, step).

    rows, columns: the last two axes of a state, whose patterns the probes of a draw have, or 0 for draws alone.
    """
    populations, particles, elements = like.shape
    coloured = rows > 0
    draws = -(-count // PATTERNS) if coloured else count
    second = rng[1] & 1
    if coloured and count == 1:
        # two levels share a draw, and the second of them has the chequered pattern
        rng = torch.stack([rng[0], rng[1] - second])
    shape = populations, particles, draws * elements
    a, b, c, d = counter_words(shape, rng, stream, first_population, first_particle)
    negative = torch.cat([*negatives(a, b), *negatives(c, d)], dim=-1)[..., : shape[2]]
    drawn = (1 - 2 * negative.long()).reshape(populations, particles, draws, elements)
    if coloured:
        table = patterns(elements, rows, columns, like.device)
        if count == 1:
            drawn = drawn * (1 + second * (table[1] - 1))
        else:
            drawn = (drawn[:, :, :, None] * table).flatten(2, 3)[:, :, :count]
    return drawn.to(like.dtype)
