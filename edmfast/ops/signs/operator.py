"""`random_signs`: independent signs that depend on (seed, step, stream, population, particle, element) alone.

They are the signs of the numbers that `edmfast.ops.standard_normal` draws, made of the same bits without their
logarithms and sines. Several probes of one image may share a draw, and differ by patterns of its last two axes: 1,
(-1)^(i+j), (-1)^i and (-1)^j. The products of direct neighbours then cancel from the mean of two probes, and those
of diagonal neighbours from that of four. There is no derivative, since no input is differentiable.

Source: Hutchinson 1990 (random signs as probes of a trace); Salmon et al. 2011 (Philox); probing by colours:
Bekas, Kokiopoulou and Saad 2007.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast import _extension
from edmfast._internal.numbers import as_int
from edmfast.ops._shared.counters import check_populations
from edmfast.ops._shared.dtypes import DTYPES
from edmfast.ops.noise.operator import STREAMS, rng_state
from edmfast.ops.signs import reference

_PARTICLES = 2**32


def _fake(
    like: Tensor,
    rng: Tensor,
    count: int,
    rows: int,
    columns: int,
    stream: int,
    first_population: int,
    first_particle: int,
) -> Tensor:
    populations, particles, elements = like.shape
    return like.new_empty((populations, particles, count, elements))


_extension.define(
    "signs(Tensor like, Tensor rng, int count, int rows, int columns, int stream, int first_population, "
    "int first_particle) -> Tensor",
    reference.signs,
    _fake,
    triton="signs",
)


def random_signs(
    like: Tensor,
    *,
    count: int | None = None,
    coloured: bool = False,
    seed: int = 0,
    step: int = 0,
    rng: Tensor | None = None,
    stream: int = 0,
    first_population: int = 0,
    first_particle: int = 0,
) -> Tensor:
    """Return signs, each 1 or -1 with equal probability, in the dtype and on the device of `like` [P, N, *shape].

    count: the number K of probes of each particle. The result is [P, N, K, *shape], or [P, N, *shape] without it.
    coloured: four probes share a draw and differ by patterns of the last two axes of a state. Single probes share
        the draw of an even step with the step after it, which has the chequered pattern.
    seed, step: integers as in `rng_state`. rng: int64 [2], replaces (seed, step) where they are on the device.
    stream: 0 to 15, separates uses that share seed and step.
    first_population, first_particle: the place of the first population and of the first particle in the counter,
        where a run is split over calls or devices.

    Without patterns these are the signs of `standard_normal(like)` with the same numbers, where like is
    [P, N, K, *shape]. Raises TypeError for a dtype that is not floating point; ValueError for fewer than two
    dimensions, a coloured state of fewer than two axes, a count below 1, an unknown stream, a first particle
    beyond 2^32 - 1, or populations beyond 2^28.
    Source: Hutchinson 1990; Salmon et al. 2011.
    """
    if not isinstance(like, Tensor):
        raise TypeError(
            f"like must be a tensor, whose shape, dtype and device the signs take, got {like!r}"
        )
    if like.dtype not in DTYPES:
        raise TypeError(f"like must be float16, bfloat16, float32 or float64, got {like.dtype}")
    if like.dim() < (4 if coloured else 2):
        wanted = "[P, N, ..., H, W]" if coloured else "[P, N, *shape]"
        raise ValueError(f"like must be {wanted}, got shape {tuple(like.shape)}")
    probes = 1 if count is None else as_int("count", count, least=1)
    stream = as_int("stream", stream, least=0, most=STREAMS - 1)
    first_particle = as_int("first_particle", first_particle, least=0, most=_PARTICLES - 1)
    populations, particles = like.shape[:2]
    first_population = check_populations(first_population, populations)
    flat = like.detach().reshape(populations, particles, like[0, 0].numel() if like.numel() else 0)
    rows, columns = like.shape[-2:] if coloured else (0, 0)
    rng = rng_state(seed, step, like.device) if rng is None else rng
    out: Tensor = torch.ops.edmfast.signs(
        flat, rng, probes, rows, columns, stream, first_population, first_particle
    )
    leading = like.shape[:2] if count is None else (*like.shape[:2], probes)
    return out.reshape(*leading, *like.shape[2:])
