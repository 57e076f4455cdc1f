"""`standard_normal`: normals that depend on (seed, step, stream, population, particle, element) and nothing else.

Sample (p, n) has the same numbers for every batch size, every number of populations or devices, and after a run is
resumed. Philox4x32-10 makes random bits of the counter, and Box-Muller makes normals of them, with the
resolution of float32 in every dtype. There is no derivative, since no input is differentiable.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import torch
from torch import Tensor

from edmfast import _extension
from edmfast._internal.numbers import as_int, as_seed
from edmfast.ops._shared.counters import check_populations
from edmfast.ops.noise import reference

_STEPS = 2**32  # one word of the counter
STREAMS = 16  # four bits of another word


def _fake(
    like: Tensor, rng: Tensor, stream: int, first_population: int, first_particle: int
) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


_extension.define(
    "noise(Tensor like, Tensor rng, int stream, int first_population, int first_particle) -> Tensor",
    reference.noise,
    _fake,
    triton="noise",
)


def rng_state(seed: int, step: int, device: torch.device | str = "cpu") -> Tensor:
    """Return (seed, step) as an int64 [2] tensor, from which the operators read their key and their step.

    seed: 64 bits, signed or unsigned. step: from 0 to 2^32 - 1.
    Raises TypeError for anything but integers, ValueError outside of these ranges.
    """
    seed, step = as_seed(seed), as_int("step", step, least=0, most=_STEPS - 1)
    # the tensor is signed, so the upper half of the seeds wraps
    signed = seed - 2**64 if seed >= 2**63 else seed
    state = torch.empty(2, dtype=torch.int64, device=device)
    # a fill does not wait for a GPU, while a tensor made of a list would
    state[0].fill_(signed)
    state[1].fill_(step)
    return state


def standard_normal(
    like: Tensor,
    *,
    seed: int = 0,
    step: int = 0,
    rng: Tensor | None = None,
    stream: int = 0,
    first_population: int = 0,
    first_particle: int = 0,
) -> Tensor:
    """Return independent N(0, 1) numbers of the shape, dtype and device of `like` [P, N, *shape].

    seed, step: integers as in `rng_state`. rng: int64 [2], replaces (seed, step) where they are on the device.
    stream: 0 to 15, separates uses that share seed and step.
    first_population, first_particle: the place of the first population and of the first particle in the counter,
        where a run is split over calls or devices.

    Raises TypeError for a dtype that is not floating point; ValueError for fewer than two dimensions, an unknown
    stream, a first particle beyond 2^32 - 1, or populations beyond 2^28.
    Source: Salmon et al. 2011.
    """
    if not isinstance(like, Tensor):
        raise TypeError(
            f"like must be a tensor, whose shape, dtype and device the numbers take, got {like!r}"
        )
    if not like.is_floating_point():
        raise TypeError(f"like must be floating point, got {like.dtype}")
    if like.dim() < 2:
        raise ValueError(f"like must be [P, N, *shape], got shape {tuple(like.shape)}")
    stream = as_int("stream", stream, least=0, most=STREAMS - 1)
    first_particle = as_int("first_particle", first_particle, least=0, most=_STEPS - 1)
    populations, particles = like.shape[:2]
    first_population = check_populations(first_population, populations)
    flat = like.detach().reshape(populations, particles, like[0, 0].numel() if like.numel() else 0)
    # half precisions are drawn in float32 and rounded, so they agree with it
    if flat.dtype not in (torch.float32, torch.float64):
        flat = torch.empty_like(flat, dtype=torch.float32)
    rng = rng_state(seed, step, like.device) if rng is None else rng
    out: Tensor = torch.ops.edmfast.noise(flat, rng, stream, first_population, first_particle)
    return out.reshape(like.shape).to(like.dtype)
