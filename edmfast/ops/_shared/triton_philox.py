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
def _negative_log(u):
    """Return -log(u) for float32 u in [2^-32, 1]."""
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    mantissa = (bits - (exponent << 23)).to(tl.float32, bitcast=True)
    # a plain / would be approximate in float32
    s = tl.div_rn(mantissa - 1.0, mantissa + 1.0)
    s2 = s * s
    series = s2 * 0.22222222 + 0.28571430
    series = series * s2 + 0.40000001
    series = series * s2 + 0.66666669
    series = series * s2 + 2.0
    # a product keeps the sign of zero, while Triton's minus is 0 - x, which loses it
    return (exponent.to(tl.float32) * 0.69314718 + series * s) * -1.0


@triton.jit
def _box_muller(radius_bits, angle_bits):
    """Return two independent float32 normals made of two uint32 words."""
    # half a step is added, so u is never 0 and its logarithm is finite
    u = (radius_bits >> 1).to(tl.int32).to(tl.float32) * 4.656612873e-10 + 2.328306437e-10
    radius = tl.sqrt_rn(_negative_log(u) * 2.0)
    turn = angle_bits.to(tl.int32, bitcast=True).to(tl.float32) * 4.656612873e-10
    # the angle is reduced to 45 degrees around an axis, where short polynomials are accurate
    twice = turn * 2.0
    quarter = (twice + tl.where(twice < 0, -0.5, 0.5)).to(tl.int32)
    f = turn + quarter.to(tl.float32) * -0.5
    f2 = f * f
    sine = f2 * 0.082145887 + -0.59926453
    sine = sine * f2 + 2.5501640
    sine = sine * f2 + -5.1677128
    sine = sine * f2 + 3.1415927
    sine = sine * f
    cosine = f2 * -0.025806891 + 0.23533063
    cosine = cosine * f2 + -1.3352628
    cosine = cosine * f2 + 4.0587121
    cosine = cosine * f2 + -4.9348022
    cosine = cosine * f2 + 1.0
    swapped = (quarter & 1) != 0
    x = tl.where(swapped, sine, cosine)
    y = tl.where(swapped, cosine, sine)
    x = tl.where(((quarter + 1) & 2) != 0, x * -1.0, x)
    y = tl.where((quarter & 2) != 0, y * -1.0, y)
    return radius * x, radius * y


@triton.jit
def stream_word(stream, population):
    """Return the fourth word of the counter, uint32, from integers stream and population (int64)."""
    return ((tl.cast(stream, tl.int64) << 28) | population).to(tl.uint32)


@triton.jit
def normals(block, particle, word, rng):
    """Return four tiles of float32 normals, of the shape that block and particle broadcast to.

    Tile j holds elements j ceil(d/4) + block of the samples. rng: a pointer to int64 (seed, step).
    """
    step = tl.load(rng + 1).to(tl.uint32)
    block, particle = tl.broadcast(block.to(tl.uint32), particle.to(tl.uint32))
    a, b, c, d = tl.philox(tl.load(rng), block, step, particle, word)
    first, second = _box_muller(a, b)
    third, fourth = _box_muller(c, d)
    return first, second, third, fourth
