"""Independent noise: the n-th draw of a run is the normal of node n."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from edmfast._internal.numbers import as_int
from edmfast._internal.seeds import as_seeds, one_each
from edmfast.sampling.noise.source import Nodes, evaluate, shape_of

# Other users of the generator have other streams, so equal seeds draw different numbers there.
STREAM = 4
"""The stream of the counter that independent noise of plain samplers is drawn from."""


@dataclass(frozen=True, eq=False)
class Independent:
    """A source whose draws are independent of each other, whatever their intervals are.

    seeds, first_sample: see `NoiseSource`. first_call: the node of the run's first draw.
    """

    seeds: Tensor
    first_sample: int = 0
    first_call: int = 0
    stream: int = STREAM

    def nodes(self, call: int, sigma_from: float, sigma_to: float) -> Nodes:
        """Return the node of the draw with number `call`, with weight 1."""
        return (self.first_call + call,), (1.0,)


class CountedNoise:
    """The noise sampler that `noise_sampler` returns. It counts its calls, and its n-th call draws node n."""

    def __init__(self, x: Tensor, seeds: Tensor, first_sample: int) -> None:
        self._like = shape_of(x)
        self._seeds, self._first_sample = seeds, first_sample
        self._calls = 0

    @property
    def like(self) -> Tensor:
        """The states whose shape, dtype and device the noise has."""
        return self._like

    @property
    def source(self) -> Independent:
        """The source of the draws that are still to come."""
        return Independent(self._seeds, self._first_sample, first_call=self._calls)

    def skip(self, calls: int) -> None:
        """Count the draws of a run that takes them from `source` itself."""
        self._calls += calls

    def __call__(self, *_levels: Any) -> Tensor:
        normals = evaluate(self.source, self.source.nodes(0, 0.0, 0.0), self._like)
        self._calls += 1
        return normals


def noise_sampler(x: Tensor, *, seed: Any, first_sample: int = 0) -> CountedNoise:
    """Return a noise source for the `noise_sampler` argument of a sampler, with k-diffusion's signature.

    To split a batch over several calls, pass every call the same seed and the index of its first sample:
    `noise_sampler(x[8:], seed=7, first_sample=8)`.
    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (the generator Philox4x32-10).

    Args:
        x: the states [B, *shape] that the noise is for; only their shape, dtype and device matter.
        seed: the key of the run, an integer of 64 bits; or a sequence, array or tensor [B] of them, one for each
            sample, which then has the noise of a run of its own with that seed.
        first_sample: the index of x[0] within the run. It has no effect where every sample has its own seed.

    Returns:
        A function (sigma, sigma_next) -> standard normals like x. Its n-th call draws the numbers of step n. It
            counts its own calls, so create a new one for every run.

    Raises:
        TypeError: a seed or first_sample that is no integer; at the first draw, an x that is not floating point.
        ValueError: a negative first_sample, a seed that does not fit 64 bits, or a number of seeds that is not B.
    """
    first_sample = as_int("first_sample", first_sample, least=0)
    if seed is None:
        raise TypeError("seed must be an integer, or one for each sample, got None")
    return CountedNoise(x, as_seeds(seed, x), 0 if one_each(seed) else first_sample)


def default_noise_sampler(x: Tensor) -> CountedNoise:
    """Return independent noise for states x [B, *shape], with a seed that is one draw of torch's CPU generator.

    See `noise_sampler`, which takes the seed as an argument.
    """
    return CountedNoise(x, as_seeds(None, x), 0)
