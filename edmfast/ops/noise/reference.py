"""Standard normals and uniforms from a counter in plain torch, with the bits of the compiled kernels.

Philox4x32-10 takes the counter ``(element block, step, particle, stream << 28 | population)`` and the 64-bit
seed as its key; Box-Muller in float32 follows. A sample of ``d`` elements uses ``ceil(d / 4)`` blocks, and word
``j`` of block ``b`` becomes element ``j * ceil(d / 4) + b``. Every product and sum rounds on its own, so a
kernel that does not fuse them gives the same bits.
Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_LOG = (0.22222222, 0.28571430, 0.40000001, 0.66666669, 2.0)
_RADIUS = (-0.82592744, -1.3330445, -4.0000005)
_MINUS_SINE = (-1.5148513e-4, 4.6737664e-3, -7.968968e-2, 6.459637e-1, -1.5707964)
_COSINE = (8.5819064e-4, -2.0810628e-2, 2.5365075e-1, -1.2336982, 1.0)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: Tensor) -> tuple[Tensor, ...]:
    """Return ten rounds of Philox4x32 on 32-bit words held in int64; `seed` is an int64 scalar."""
    a, b, c, d = counter
    key0, key1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        # these products may use all 64 bits and read as negative, so their high words are masked
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (
            (second >> 32) & _MASK ^ b ^ key0,
            second & _MASK,
            (first >> 32) & _MASK ^ d ^ key1,
            first & _MASK,
        )
        key0, key1 = (key0 + 0x9E3779B9) & _MASK, (key1 + 0xBB67AE85) & _MASK
    return a, b, c, d


def _horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Return a polynomial at x, its coefficients given from the highest degree down."""
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        # product and sum are two operations, because a fused one would round in another way
        value = value * x
        value = value + coefficient
    return value


def negative_log(u: Tensor) -> Tensor:
    """Return -log(u) for float32 u in [2^-32, 1]."""
    bits = u.view(torch.int32)
    exponent = (bits - 0x3F3504F3) >> 23
    mantissa = (bits - (exponent << 23)).view(torch.float32)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    return -(exponent.float() * 0.69314718 + _horner(_LOG, s * s) * s)


def squared_radius(v: Tensor) -> Tensor:
    """Return -2 log(v / 2^31) for float32 v in [1/2, 2^31]."""
    bits = v.view(torch.int32)
    # the exponent, where it stands in the bits: times 2^23
    exponent = (bits - 0x4EB504F3) & -0x800000
    mantissa = (bits - 0x0F800000 - exponent).view(torch.float32)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    return exponent.float() * -1.6525917e-7 + _horner(_RADIUS, s * s) * s


def box_muller(radius_bits: Tensor, angle_bits: Tensor) -> tuple[Tensor, Tensor]:
    """Return two independent float32 normals made of two 32-bit words held in int64.

    The angle is ``angle_bits pi / 2^31``. Its upper bit is half a turn, which turns both signs. The rest is
    ``pi / 2 + f pi / 2`` with f in [-1, 1), so that the cosine of the angle is a sine of f.
    """
    # half a step is added, so v is never 0 and its logarithm is finite
    v = (radius_bits >> 1).to(torch.int32).float() + 0.5
    # torch's square root is not correctly rounded in float32, but it is through float64
    radius = squared_radius(v).double().sqrt().float()
    radius = torch.where((angle_bits >> 31) != 0, -radius, radius)
    # the sum of twice the bits and 2^31, without the bits beyond the 32nd, is read as a signed number
    rest = ((2 * angle_bits + 0x80000000) & _MASK).to(torch.int32)
    f = rest.float() * 4.656612873e-10
    return radius * (_horner(_MINUS_SINE, f * f) * f), radius * _horner(_COSINE, f * f)


def counter_words(
    shape: tuple[int, int, int],
    rng: Tensor,
    stream: int,
    first_population: int,
    first_particle: int,
) -> tuple[Tensor, ...]:
    """Return the four words of every counter of samples [P, N, d], each [P, N, ceil(d / 4)] and int64."""
    populations, particles, elements = shape
    blocks, device = (elements + 3) // 4, rng.device
    block = torch.arange(blocks, device=device)
    particle = torch.arange(first_particle, first_particle + particles, device=device)[:, None]
    population = torch.arange(first_population, first_population + populations, device=device)
    word = (stream << 28) | population[:, None, None]
    block, particle = (part.expand(populations, particles, blocks) for part in (block, particle))
    step = (rng[1] & _MASK).expand_as(block)
    counter = block, step, particle & _MASK, (word & _MASK).expand_as(block)
    return philox(counter, rng[0])


def noise(
    like: Tensor, rng: Tensor, stream: int, first_population: int, first_particle: int
) -> Tensor:
    """Return standard normals [P, N, d] in the dtype of `like`; `rng` is int64 [2] = (seed, step)."""
    populations, particles, elements = like.shape
    shape = populations, particles, elements
    a, b, c, d = counter_words(shape, rng, stream, first_population, first_particle)
    # word j of block b is element j * blocks + b, so the four results are joined along elements
    normals = torch.cat([*box_muller(a, b), *box_muller(c, d)], dim=-1)
    # a copy, because a view of the first elements would keep all of them in memory
    dense = torch.contiguous_format
    return normals[..., :elements].to(like.dtype, copy=True, memory_format=dense)


def uniform(rng: Tensor, populations: int, first_population: int = 0, stream: int = 3) -> Tensor:
    """Return one float64 uniform in [0, 1) for each population, [..., P], at each step of `rng` int64 [..., 2]."""
    population = torch.arange(first_population, first_population + populations, device=rng.device)
    word = ((stream << 28) | population) & _MASK
    seed, step = rng[..., :1], rng[..., 1:] & _MASK
    zero = torch.zeros_like(step + population)
    a, b, _, _ = philox((zero, zero + step, zero, zero + word), seed)
    # float64 holds 53 bits exactly, so no rounding can make the uniform 1
    return ((a << 21) | (b >> 11)).double() * 2.0**-53
