"""Device side: integer weights and slots, with the bits of `edmfast.ops.systematic_resample.reference`.

The reference explains the arithmetic. Launch kernels with ``enable_fp_fusion=False``, because a fused
multiply-add in the exponential or in an estimate would change bits.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _power_of_two(exponent):
    """Return 2^exponent in float64."""
    return ((tl.cast(exponent, tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def _quantised_exp(x, bits):
    """Return floor(exp(x) 2^bits) as int64 for float64 x <= 0; NaN and -inf give 0."""
    counts = x > -43.66827237527655
    x = tl.where(counts, x, 0.0)
    n = (x * 1.4426950408889634 + 6755399441055744.0) - 6755399441055744.0
    r = x + n * -0.693147180369123816490
    r = r + n * -1.90821492927058770002e-10
    p = r * 2.7613852100963253e-07 + 2.7625169883520667e-06
    p = p * r + 2.480153630713628e-05
    p = p * r + 0.00019841208634639135
    p = p * r + 0.0013888888905922382
    p = p * r + 0.00833333335377842
    p = p * r + 0.04166666666665131
    p = p * r + 0.1666666666664823
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    value = p * _power_of_two(n.to(tl.int64) + bits)
    return tl.where(counts, value.to(tl.int64), 0)


@triton.jit
def integer_weights(value, maximum, bits, inside):
    """Return int64 weights of float64 log-weights, 0 where not `inside`."""
    # the comparison makes the difference 0 also where the maximum is +inf
    difference = tl.where(value == maximum, 0.0, value - maximum)
    return tl.where(inside, _quantised_exp(difference, bits), 0)


@triton.jit
def _natural_log(x):
    """Return log(x) of positive normal float64, see the reference."""
    pattern = x.to(tl.int64, bitcast=True)
    exponent = (pattern - 0x3FE6A09E667F3BCD) >> 52
    mantissa = (pattern - (exponent << 52)).to(tl.float64, bitcast=True)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    s2 = s * s
    series = s2 * 0.09523809523809523 + 0.10526315789473684
    series = series * s2 + 0.11764705882352941
    series = series * s2 + 0.13333333333333333
    series = series * s2 + 0.15384615384615385
    series = series * s2 + 0.18181818181818182
    series = series * s2 + 0.2222222222222222
    series = series * s2 + 0.2857142857142857
    series = series * s2 + 0.4
    series = series * s2 + 0.6666666666666666
    series = series * s2 * s + s * 2.0
    n = exponent.to(tl.float64)
    return n * 0.693147180369123816490 + (n * 1.90821492927058770002e-10 + series)


@triton.jit
def sums_of(q):
    """Return the sum of q, and that of q^2 in three int64 parts, to be multiplied by 2^64, 2^32 and 1."""
    # a square has up to 124 bits, and int64 holds the sums of these parts of it
    unsigned = q.to(tl.uint64, bitcast=True)
    low = unsigned * unsigned
    high = tl.umulhi(unsigned, unsigned)
    return (
        tl.sum(q),
        tl.sum(high.to(tl.int64)),
        tl.sum((low >> 32).to(tl.int64)),
        tl.sum((low & 0xFFFFFFFF).to(tl.int64)),
    )


@triton.jit
def decide(maximum, total, square_high, square_middle, square_low, particles, bits, ess_threshold):
    """Return (ess, log_mean, resampled, collapsed) of one population from its exact sums."""
    middle = square_middle + (square_low >> 32)
    high = (square_high + (middle >> 32)).to(tl.float64)
    low = ((middle << 32) | (square_low & 0xFFFFFFFF)).to(tl.uint64, bitcast=True).to(tl.float64)
    n = tl.cast(particles, tl.float64)
    weight = total.to(tl.float64)
    collapsed = maximum == float("-inf")
    ess = tl.where(collapsed, 0.0, weight * weight / (high * 18446744073709551616.0 + low))
    # the total is 0 where all weights are NaN, and the logarithm takes positive numbers only
    mean = tl.maximum(weight, 1.0) / (n * _power_of_two(bits))
    log_mean = tl.where(collapsed, float("-inf"), maximum + _natural_log(mean))
    resampled = (ess < n * ess_threshold) & (collapsed == 0)
    return ess, log_mean, resampled, collapsed


@triton.jit
def threshold_of(uniform, total):
    """Return floor(u W) for float64 u, which is clamped to [0, 1); NaN counts as 0."""
    # a comparison with NaN is false, so NaN becomes 0
    u = tl.where(uniform >= 0.0, uniform, 0.0)
    # a uniform of 1 would overflow the 64 bits of the fraction
    u = tl.where(u >= 1.0, 0.9999999999999999, u)
    fraction = (u * 9007199254740992.0).to(tl.int64).to(tl.uint64, bitcast=True) << 11
    return tl.umulhi(fraction, total.to(tl.uint64, bitcast=True)).to(tl.int64)


@triton.jit
def first_slots(before, particles, total, threshold):
    """Return ceil(c N / W - u) as int32 for exclusive prefix sums c = `before`."""
    n = tl.cast(particles, tl.int64)
    ratio = n.to(tl.float64) / total.to(tl.float64)
    quotient = (before.to(tl.float64) * ratio).to(tl.int64)
    # this may wrap, but the true remainder is in [0, W), and the quotient is off by one at most
    remainder = before * n - quotient * total
    correction = (remainder >= total).to(tl.int64) - (remainder < 0).to(tl.int64)
    quotient += correction
    remainder -= correction * total
    return (quotient + (remainder > threshold).to(tl.int64)).to(tl.int32)


@triton.jit
def owners(slots, slot, particles, LEVELS: tl.constexpr):
    """Return the last particle whose first slot, in int32 [N] at pointer `slots`, is not after `slot`.

    This is a binary search of LEVELS = ceil(log2 N) steps. Its cost does not depend on the weights, so no program
    gets all the work where one particle takes every slot.
    """
    owner = tl.zeros_like(slot)
    for level in range(LEVELS):
        candidate = owner + (1 << (LEVELS - 1 - level))
        exists = candidate < particles
        first = tl.load(slots + candidate, mask=exists, other=2147483647)
        owner = tl.where(exists & (first <= slot), candidate, owner)
    return owner
