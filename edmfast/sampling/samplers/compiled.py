"""Samplers that run all their steps as one compiled graph."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

from torch import Tensor


def compiled(sampler: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a sampler of this package that runs all its steps as one compiled graph.

    `compiled(sample_heun)(model, x, sigmas)` is `sample_heun(model, x, sigmas, compile=True)`. The graph holds the
    model calls and the combinations of every step, so it reads nothing on the host, and another grid of the same
    length runs by the same graph. The first run of a grid length and a batch size compiles, for seconds to
    minutes. A model's graphs are kept as long as the model lives, and a change of its weights makes new ones.
    Where tracing or compiling fails, the run goes on eagerly after one warning that says why.

    Args:
        sampler: a function of `edmfast.sampling` with the argument `compile`.

    Returns:
        The sampler with compile=True. It takes no callback and no noise_sampler, and draws its noise from
        counters.

    Raises:
        TypeError: a function without the argument `compile`. The adaptive samplers have none, since their steps
            depend on the states.
    """
    if not callable(sampler) or "compile" not in inspect.signature(sampler).parameters:
        name = getattr(sampler, "__name__", type(sampler).__name__)
        raise TypeError(
            f"compiled takes a sampler of edmfast.sampling with the argument compile, got {name}"
        )
    return functools.wraps(sampler)(functools.partial(sampler, compile=True))
