"""Brownian noise under the names and arguments of k-diffusion, for its samplers and for ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edmfast._internal.numbers import as_float
from edmfast._internal.seeds import as_seeds, one_each
from edmfast.sampling.noise.brownian import BrownianPath, identity, increment
from edmfast.sampling.noise.source import evaluate, shape_of

# The settings of torchsde's tree that cannot change its increments, or that only say how it is computed.
_WITHOUT_EFFECT = {"w0", "tol", "pool_size", "cache_depth", "safety"}


def _identity(sigma: Tensor) -> Tensor:
    return sigma


class BatchedBrownianTree:
    """A Brownian path for a batch, which is called with two times and returns its increment between them.

    The path is a function of the seed and the times alone. It is the same whatever times are asked for, in any
    order, and it extends beyond [t0, t1].

    Args:
        x: the states [B, *shape] that the increments are for; only their shape, dtype and device matter.
        t0: one end of the interval of times, a number or a tensor without dimensions.
        t1: its other end. With t0 >= t1 the path is negated, as in k-diffusion.
        seed: an integer of 64 bits; a sequence, array or tensor [B] of them, one for each sample; or None for one
            draw of torch's default CPU generator.
        kwargs: the settings of torchsde's tree except w1. They have no effect: increments do not depend on w0,
            and the path is exact on a grid of relative step 2^-18.

    Attributes:
        batched: every sample has its own seed.
        source: the path, which our samplers draw in their own pass over the states.

    Raises:
        TypeError: a seed that is no integer, times that are no numbers, or an unknown setting.
        ValueError: a seed that does not fit 64 bits, or a number of seeds that is not B.
    """

    def __init__(self, x: Tensor, t0: Any, t1: Any, seed: Any = None, **kwargs: Any) -> None:
        if unknown := sorted(kwargs.keys() - _WITHOUT_EFFECT):
            raise TypeError(
                f"BatchedBrownianTree takes {', '.join(sorted(_WITHOUT_EFFECT))}, got {', '.join(unknown)}"
            )
        self._like = shape_of(x)
        sign = 1 if _number("t0", t0) < _number("t1", t1) else -1
        self.source = BrownianPath(as_seeds(seed, x), sign=sign)
        self.batched = one_each(seed)

    def __call__(self, t0: Any, t1: Any) -> Tensor:
        """Return W(t1) - W(t0) like x, times the sign of the path. Times are numbers or 0-dimensional tensors."""
        weights = increment(_number("t0", t0), _number("t1", t1))
        signed = tuple(self.source.sign * weight for weight in weights.values())
        return evaluate(self.source, (tuple(weights), signed), self._like)


class BrownianTreeNoiseSampler:
    """A `noise_sampler` whose draws are the scaled increments of one Brownian path.

    A run of the same seed therefore meets the same path at every number of steps, so that runs with more steps
    converge to one result. A new object is not needed for another run: the draws depend on the levels alone.

    Args:
        x: the states [B, *shape] that the noise is for; only their shape, dtype and device matter.
        sigma_min: the lowest noise level, a number or a tensor without dimensions. The path extends beyond.
        sigma_max: the highest noise level.
        seed: an integer of 64 bits; a sequence, array or tensor [B] of them, one for each sample; or None for one
            draw of torch's default CPU generator.
        transform: a monotone function that maps a noise level, as a float64 tensor without dimensions, to the time
            of the path.

    Attributes:
        source: the path, which our samplers draw in their own pass over the states.

    Raises:
        TypeError: a seed that is no integer, or levels that are no numbers.
        ValueError: a seed that does not fit 64 bits, or a number of seeds that is not B.
    """

    def __init__(
        self,
        x: Tensor,
        sigma_min: Any,
        sigma_max: Any,
        seed: Any = None,
        transform: Callable[[Tensor], Any] = _identity,
    ) -> None:
        self._like = shape_of(x)
        self.transform = transform
        low = self._time(_number("sigma_min", sigma_min))
        high = self._time(_number("sigma_max", sigma_max))
        clock = identity if transform is _identity else self._time
        self.source = BrownianPath(as_seeds(seed, x), clock=clock, sign=1 if low < high else -1)

    @property
    def like(self) -> Tensor:
        """The states whose shape, dtype and device the noise has."""
        return self._like

    def __call__(self, sigma: Any, sigma_next: Any) -> Tensor:
        """Return standard normals like x: (W(t_next) - W(t)) / sqrt(|t_next - t|), with t the time of sigma."""
        interval = _number("sigma", sigma), _number("sigma_next", sigma_next)
        return evaluate(self.source, self.source.nodes(0, *interval), self._like)

    def _time(self, sigma: float) -> float:
        return float(self.transform(torch.tensor(sigma, dtype=torch.float64)))


def _number(name: str, level: Any) -> float:
    return as_float(name, level.detach() if isinstance(level, Tensor) else level)
