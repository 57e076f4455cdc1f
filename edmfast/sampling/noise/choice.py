"""The noise of a run: a sampler of the caller, or by default counter-based noise that is independent or a path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from typing_extensions import TypeIs

from edmfast._internal.seeds import as_seeds
from edmfast.sampling.engine.draws import (
    Draw,
    Requests,
    draws_from_counters,
    draws_from_function,
)
from edmfast.sampling.noise.brownian import BrownianPath
from edmfast.sampling.noise.carried import draws_along, pays
from edmfast.sampling.noise.foreign import NoiseSampler, checked, like_states
from edmfast.sampling.noise.independent import CountedNoise, Independent
from edmfast.sampling.noise.trees import BrownianTreeNoiseSampler


def noise_of_run(
    noise: NoiseSampler | None, x: Tensor, *, seed: Any = None, path: bool = False, calls: int
) -> Independent | BrownianPath | NoiseSampler:
    """Return the noise of a run over states x: a source of nodes, or a checked function (sigma, sigma_next).

    noise: the caller's noise sampler, or None. Those of this package become their sources.
    seed: an integer or one for each sample, for noise from counters. None takes one draw of torch's default CPU
        generator where the run has draws, so that the generator advances alike for every batch size.
    path: noise from counters is that of a Brownian path, and otherwise every draw is independent.
    calls: the number of draws of the run.
    Raises ValueError where both noise and a seed are given, and for a number of seeds that is not the batch size.
    """
    if noise is None:
        seeds = as_seeds(0 if seed is None and not calls else seed, x)
        return BrownianPath(seeds) if path else Independent(seeds)
    if seed is not None:
        raise ValueError("give noise_sampler or seed, got both: a noise sampler has its own seed")
    if isinstance(noise, (CountedNoise, BrownianTreeNoiseSampler)):
        like_states(noise.like, noise, x)
        source = noise.source
        if isinstance(noise, CountedNoise):
            noise.skip(calls)
        return source
    return checked(noise, x)


def is_source(noise: Any) -> TypeIs[Independent | BrownianPath]:
    """Return whether noise comes from counters, and not from a function of the caller."""
    return isinstance(noise, (Independent, BrownianPath))


def draws_for(
    requests: Requests,
    x: Tensor,
    sigmas: Tensor,
    noise_sampler: NoiseSampler | None,
    seed: Any = None,
    *,
    path: bool = False,
) -> Iterator[Draw]:
    """Return the draws of a run's requests, in their order; see `noise_of_run`.

    sigmas: levels in the dtype and on the device that a foreign noise sampler receives its levels in.
    """
    noise = noise_of_run(noise_sampler, x, seed=seed, path=path, calls=len(requests))
    return draws_of(noise, requests, x, sigmas)


def draws_of(
    noise: Independent | BrownianPath | NoiseSampler, requests: Requests, x: Tensor, sigmas: Tensor
) -> Iterator[Draw]:
    """Return the draws of a run over states x from the result of `noise_of_run`; see `draws_for`."""
    if not is_source(noise):
        return draws_from_function(noise, requests, sigmas)
    if isinstance(noise, BrownianPath) and pays(x):
        return draws_along(noise, requests)
    return draws_from_counters(noise, requests)
