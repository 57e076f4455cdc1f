"""Device side: Philox4x32-10 and Box-Muller, with the bits of `edmfast.ops.noise.reference`.

The counter is (element block, step, particle, stream << 28 | population), and the key is the 64-bit seed. The
coefficients and the order of operations are those of the reference. The bits agree only if no product is fused
with a sum, so launch kernels with ``enable_fp_fusion=False``, which reaches both LLVM and ptxas.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _squared_radius(v):
    """Return -2 log(v / 2^31) for float32 v in [1/2, 2^31]."""
    bits = v.to(tl.int32, bitcast=True)
    # the exponent, where it stands in the bits: times 2^23
    exponent = (bits - 0x4EB504F3) & -0x800000
    mantissa = (bits - 0x0F800000 - exponent).to(tl.float32, bitcast=True)
    # a plain / would be approximate in float32
    s = tl.div_rn(mantissa - 1.0, mantissa + 1.0)
    s2 = s * s
    series = s2 * -0.82592744 + -1.3330445
    series = series * s2 + -4.0000005
    return exponent.to(tl.float32) * -1.6525917e-7 + series * s


@triton.jit
def _box_muller(radius_bits, angle_bits):
    """Return two independent float32 normals made of two uint32 words."""
    # half a step is added, so v is never 0 and its logarithm is finite
    v = (radius_bits >> 1).to(tl.int32).to(tl.float32) + 0.5
    radius = tl.sqrt_rn(_squared_radius(v))
    # the upper bit is half a turn; a product keeps the sign of zero, while Triton's minus is 0 - x, which loses it
    radius = tl.where((angle_bits >> 31) != 0, radius * -1.0, radius)
    # the rest of the angle is pi / 2 + f pi / 2
    f = (angle_bits * 2 + 0x80000000).to(tl.int32, bitcast=True).to(tl.float32) * 4.656612873e-10
    f2 = f * f
    minus_sine = f2 * -1.5148513e-4 + 4.6737664e-3
    minus_sine = minus_sine * f2 + -7.968968e-2
    minus_sine = minus_sine * f2 + 6.459637e-1
    minus_sine = (minus_sine * f2 + -1.5707964) * f
    cosine = f2 * 8.5819064e-4 + -2.0810628e-2
    cosine = cosine * f2 + 2.5365075e-1
    cosine = cosine * f2 + -1.2336982
    cosine = cosine * f2 + 1.0
    return radius * minus_sine, radius * cosine


@triton.jit
def stream_word(stream, population):
    """Return the fourth word of the counter, uint32, from integers stream and population (int64)."""
    return ((tl.cast(stream, tl.int64) << 28) | population).to(tl.uint32)


@triton.jit
def normals(block, particle, word, rng):
    """Return four tiles of float32 normals, of the shape that block and particle broadcast to.

    Tile j holds elements j ceil(d/4) + block of the samples. rng: a pointer to int64 (seed, step).
    """
    return normals_of(block, tl.load(rng + 1), particle, word, tl.load(rng))


@triton.jit
def normals_of(block, step, particle, word, seed):
    """Return the tiles of `normals` for given words of the counter and an int64 seed, which may differ by row."""
    block, particle = tl.broadcast(block.to(tl.uint32), particle.to(tl.uint32))
    a, b, c, d = tl.philox(seed, block, step.to(tl.uint32), particle, word)
    first, second = _box_muller(a, b)
    third, fourth = _box_muller(c, d)
    return first, second, third, fourth
