"""The noise of samplers: independent normals or a Brownian path from counters, and noise of other projects."""

from edmfast.sampling.noise.brownian import BrownianPath
from edmfast.sampling.noise.choice import draws_for, draws_of, is_source, noise_of_run
from edmfast.sampling.noise.foreign import NoiseSampler
from edmfast.sampling.noise.independent import Independent, default_noise_sampler, noise_sampler
from edmfast.sampling.noise.trees import BatchedBrownianTree, BrownianTreeNoiseSampler

__all__ = [
    "BatchedBrownianTree",
    "BrownianPath",
    "BrownianTreeNoiseSampler",
    "Independent",
    "NoiseSampler",
    "default_noise_sampler",
    "draws_for",
    "draws_of",
    "is_source",
    "noise_of_run",
    "noise_sampler",
]
