"""Counter-based noise for the samplers: sample k gets the same numbers whatever the batch.

The normals are `edmfast.ops.standard_normal` (Philox4x32-10, Salmon et al. 2011) with the sample's
index and the number of the call in the counter, so they depend neither on the batch size nor on the
device.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_int, as_seed
from edmfast.models.calling.foreign import name_of
from edmfast.ops import standard_normal

NoiseSampler = Callable[..., Tensor]

_PLAIN_SAMPLERS = 4


def noise_sampler(x: Tensor, *, seed: int, first_sample: int = 0) -> NoiseSampler:
    """A noise source for the `noise_sampler` argument of a sampler, k-diffusion's signature.

    To split a batch over several calls, give every call the same seed and the index of its first
    sample: `noise_sampler(x[8:], seed=7, first_sample=8)`.

    Args:
        x: [B, *shape], the state the noise is for (only its shape, dtype and device matter).
        seed: the key of the run.
        first_sample: index of x[0] within the run.

    Returns:
        A function (sigma, sigma_next) -> standard normals like x. Its n-th call draws the numbers
        of step n; it counts its own calls, so use a new one for every run.

    Raises:
        TypeError: a seed or first_sample that is no integer, or x not floating point (at the first draw).
        ValueError: first_sample < 0, or a seed that does not fit 64 bits.
    """
    seed, first_sample = as_seed(seed), as_int("first_sample", first_sample, least=0)
    calls = itertools.count()

    def draw(*_levels: Any) -> Tensor:
        normals = standard_normal(
            x[None],
            seed=seed,
            step=next(calls),
            stream=_PLAIN_SAMPLERS,
            first_particle=first_sample,
        )
        return normals[0]

    return draw


def or_default(noise: NoiseSampler | None, x: Tensor, *, needed: bool) -> NoiseSampler:
    """`noise` where given, else `noise_sampler` with a seed from torch's default CPU generator.

    torch.manual_seed therefore repeats a run. The seed is one draw per run that needs noise, so the
    generator advances by the same amount whatever the batch, and not at all in a plain ODE run.
    """
    if noise is not None:
        return _checked(noise, x)
    seed = int(torch.randint(2**63 - 1, (), device="cpu")) if needed else 0
    return noise_sampler(x, seed=seed)


def _checked(noise: NoiseSampler, x: Tensor) -> NoiseSampler:
    """Return `noise` with its answers checked, and with copies as its arguments: a source may change them."""

    def draw(*given: Any) -> Tensor:
        found = noise(*(one.clone() if isinstance(one, Tensor) else one for one in given))
        if not isinstance(found, Tensor):
            raise TypeError(
                f"the noise must be a tensor like x, {name_of(noise)} returned a {type(found).__name__}"
            )
        if found.shape != x.shape or found.device != x.device or not found.is_floating_point():
            raise ValueError(
                f"the noise must be floating {[*x.shape]} on {x.device} like x: {name_of(noise)} returned "
                f"{found.dtype} {[*found.shape]} on {found.device}"
            )
        return found.to(x.dtype)

    return draw
