"""Random generators of torch that use all 64 bits of a seed.

On the CPU torch's generator keeps only the lowest 32 bits of a seed, so seeds that differ by a multiple of 2^32
would draw the same numbers. Seeds beyond 32 bits are therefore mixed first, by the finalizer of SplitMix64, a
bijection of 64 bits. Seeds from 0 to 2^32 - 1 are passed on as they are. Source: Steele, Lea and Flood 2014, "Fast
splittable pseudorandom number generators".
"""

from __future__ import annotations

import torch

_MASK = 2**64 - 1


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on the device. seed: an int as `as_seed` returns it; negative seeds wrap at 2^64."""
    return torch.Generator(device).manual_seed(_mixed(seed & _MASK))


def _mixed(seed: int) -> int:
    if seed < 2**32:
        return seed
    # These are the constants of SplitMix64's finalizer.
    seed = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    seed = ((seed ^ (seed >> 27)) * 0x94D049BB133111EB) & _MASK
    return seed ^ (seed >> 31)
