"""Counter-based noise for the samplers: a sample gets the same numbers whatever batch it is in.

The normals are those of `edmfast.ops.standard_normal` (Philox4x32-10, Salmon et al. 2011). The sample's index and
the number of the call are in the counter, so the normals depend neither on the batch size nor on the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_int, as_seed
from edmfast.models.calling.foreign import name_of
from edmfast.ops import standard_normal
from edmfast.sampling.engine.draws import (
    Draw,
    Requests,
    draws_from_counters,
    draws_from_function,
)

NoiseSampler = Callable[..., Tensor]

# Other users of the generator have other streams, so equal seeds draw different numbers there.
_PLAIN_SAMPLERS = 4
"""The stream of the counter that plain samplers draw from."""


def noise_sampler(x: Tensor, *, seed: int, first_sample: int = 0) -> NoiseSampler:
    """Return a noise source for the `noise_sampler` argument of a sampler, with k-diffusion's signature.

    To split a batch over several calls, pass every call the same seed and the index of its first sample:
    `noise_sampler(x[8:], seed=7, first_sample=8)`.
    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (the generator Philox4x32-10).

    Args:
        x: the states [B, *shape] that the noise is for; only their shape, dtype and device matter.
        seed: the key of the run, an integer of 64 bits.
        first_sample: the index of x[0] within the run.

    Returns:
        A function (sigma, sigma_next) -> standard normals like x. Its n-th call draws the numbers of step n. It
            counts its own calls, so create a new one for every run.

    Raises:
        TypeError: a seed or first_sample that is no integer; at the first draw, an x that is not floating point.
        ValueError: a negative first_sample, or a seed that does not fit 64 bits.
    """
    seed, first_sample = as_seed(seed), as_int("first_sample", first_sample, least=0)
    calls = itertools.count()

    def draw(*_levels: Any) -> Tensor:
        normals = standard_normal(
            # The operator takes populations [P, N, ...], of which the batch is one.
            x[None],
            seed=seed,
            step=next(calls),
            stream=_PLAIN_SAMPLERS,
            first_particle=first_sample,
        )
        return normals[0]

    return draw


@dataclass(frozen=True)
class Independent:
    """Independent normals at every draw, as a source of the engine."""

    seeds: Tensor
    first_sample: int = 0
    stream: int = _PLAIN_SAMPLERS

    def nodes(self, call: int, sigma_from: float, sigma_to: float) -> tuple[list[int], list[float]]:
        """Return the number of the draw as the only node, with weight 1."""
        return [call], [1.0]


def draws_for(
    requests: Requests, x: Tensor, sigmas: Tensor, noise_sampler: NoiseSampler | None, seed: Any
) -> Iterator[Draw]:
    """Return the draws of a run: from the caller's function, or from counters where it is None."""
    if noise_sampler is not None:
        return draws_from_function(_checked(noise_sampler, x), requests, sigmas)
    if not requests:
        return iter(())
    return draws_from_counters(Independent(as_seeds(seed, len(x)).to(x.device)), requests)


def as_seeds(seed: Any, samples: int) -> Tensor:
    """Return the seeds of a run on the CPU, int64: [1] for an integer, or one for each sample, [B].

    None is one draw of torch's generator. Raises TypeError for what is not an integer, ValueError for a number of
    seeds other than the number of samples.
    """
    if seed is None:
        return torch.randint(2**63 - 1, (1,), device="cpu")
    if getattr(seed, "ndim", 0) == 1 and hasattr(seed, "tolist"):
        seed = seed.tolist()
    if isinstance(seed, Sequence) and not isinstance(seed, (str, bytes)):
        if len(seed) != samples:
            raise ValueError(
                f"seed must be an integer or one for each of the {samples} samples of x, got {len(seed)} seeds"
            )
        seeds = [as_seed(value, f"seed[{k}]") for k, value in enumerate(seed)]
    else:
        seeds = [as_seed(seed)]
    # The tensor is signed, so the upper half of the seeds wraps.
    return torch.tensor([value - 2**64 if value >= 2**63 else value for value in seeds])


def or_default(noise: NoiseSampler | None, x: Tensor, *, needed: bool) -> NoiseSampler:
    """Return `noise` if there is one, and otherwise a `noise_sampler` seeded by torch's default CPU generator.

    torch.manual_seed therefore repeats a run. The seed is one draw per run that needs noise, so the generator
    advances by the same amount whatever the batch is, and not at all in a plain ODE run.
    """
    if noise is not None:
        return _checked(noise, x)
    # On the CPU whatever the states' device is, so that a run repeats across devices.
    seed = int(torch.randint(2**63 - 1, (), device="cpu")) if needed else 0
    return noise_sampler(x, seed=seed)


def _checked(noise: NoiseSampler, x: Tensor) -> NoiseSampler:
    """Return `noise` with a check of its results. It gets copies of its arguments, which it may change."""

    def draw(*levels: Any) -> Tensor:
        copies = (level.clone() if isinstance(level, Tensor) else level for level in levels)
        normals = noise(*copies)
        if not isinstance(normals, Tensor):
            raise TypeError(
                f"the noise must be a tensor like x, {name_of(noise)} returned a {type(normals).__name__}"
            )
        like_x = normals.shape == x.shape and normals.device == x.device
        if not like_x or not normals.is_floating_point():
            raise ValueError(
                f"the noise must be floating {[*x.shape]} on {x.device} like x: {name_of(noise)} returned "
                f"{normals.dtype} {[*normals.shape]} on {normals.device}"
            )
        return normals.to(x.dtype)

    return draw
