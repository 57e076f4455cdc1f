"""Systematic resampling in exact integers in plain torch, with the bits of the compiled kernels.

With ``m = max log w``, ``q_i = floor(exp(log w_i - m) 2^B)``, ``B = 62 - ceil(log2 N)``, ``c_i`` the
exclusive prefix sum of q and ``W`` its total, particle i owns the slots k with
``c_i <= (k + u) W / N < c_{i+1}``; its first slot is ``ceil(c_i N / W - u)``. With ``c_i N = k W + r``
that is ``k + [r > floor(u W)]``, all in integers, so ``|offspring_i - N q_i / W| < 1`` always and any
order of summation gives the same result. ESS = W^2 / sum q^2, log-mean-weight = m + log(W / (N 2^B)).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_EXP = (  # near-minimax on |r| <= log(2) / 2, relative error 1.2e-15, highest degree first
    2.7613852100963253e-07,
    2.7625169883520667e-06,
    2.480153630713628e-05,
    0.00019841208634639135,
    0.0013888888905922382,
    0.00833333335377842,
    0.04166666666665131,
    0.1666666666664823,
    0.5,
    1.0,
    1.0,
)
_LOW31 = (1 << 31) - 1
_LOW32 = (1 << 32) - 1

NAN_SEEN, COLLAPSED, INFINITE = 1, 2, 4


def fraction_bits(particles: int) -> int:
    """Return B, with which N weights of at most 2^B sum to at most 2^62."""
    return 62 - (particles - 1).bit_length()


def quantised_exp(x: Tensor, bits: int) -> Tensor:
    """Return floor(exp(x) 2^bits) as int64 for float64 x <= 0; NaN and -inf give 0."""
    # there are at most 62 fraction bits, so a smaller exponential has no integer part
    counts = x > -43.66827237527655  # -63 log 2
    # devices differ in how they convert NaN and -inf to an integer
    x = torch.where(counts, x, 0.0)
    # adding and subtracting 1.5 2^52 rounds to the nearest integer on every device
    n = (x * 1.4426950408889634 + 6755399441055744.0) - 6755399441055744.0
    # log 2 is split in two, and n times the first part is exact, so r keeps its digits
    r = x + n * -0.693147180369123816490
    r = r + n * -1.90821492927058770002e-10
    p = torch.full_like(r, _EXP[0])
    for coefficient in _EXP[1:]:
        # product and sum are two operations, because a fused one would round in another way
        p = p * r
        p = p + coefficient
    # 2^n is built from its bits, since exp2 differs between devices
    power = ((n.long() + (bits + 1023)) << 52).view(torch.float64)
    return torch.where(counts, (p * power).long(), 0)


def natural_log(x: Tensor) -> Tensor:
    """Return log(x) of positive normal float64 to about an ulp: a Taylor series of 2 atanh((m - 1)/(m + 1))."""
    pattern = x.view(torch.int64)
    # this is the pattern of sqrt(1/2), so the mantissa lies in [sqrt(1/2), sqrt(2)) and s is small
    exponent = (pattern - 0x3FE6A09E667F3BCD) >> 52
    mantissa = (pattern - (exponent << 52)).view(torch.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    s2 = s * s
    series = torch.full_like(s, 2.0 / 21.0)
    for odd in range(19, 1, -2):
        series = series * s2
        series = series + 2.0 / odd
    series = series * s2 * s + 2.0 * s
    n = exponent.double()
    return n * 0.693147180369123816490 + (n * 1.90821492927058770002e-10 + series)


def high_product(a: Tensor, b: Tensor) -> Tensor:
    """Return floor(a b / 2^64) of non-negative values; a is a 64-bit pattern, b < 2^63."""
    # torch has no high word of a product, so halves are multiplied; masks remove copied signs
    a0, a1 = a & _LOW32, (a >> 32) & _LOW32
    b0, b1 = b & _LOW32, (b >> 32) & _LOW32
    low = ((a0 * b0) >> 32) & _LOW32
    middle = a1 * b0  # may wrap, and is read as unsigned below
    cross = a0 * b1 + low  # < 2^64
    carry = ((middle & _LOW32) + (cross & _LOW32)) >> 32
    return a1 * b1 + ((middle >> 32) & _LOW32) + ((cross >> 32) & _LOW32) + carry


def square_parts(q: Tensor) -> Tensor:
    """Return four int64 sums [4, ...] of q [..., N] that add over parts of a population; see `sum_of_squares`."""
    # halves of 31 bits keep each of the four sums below 2^63
    high, low = q >> 31, q & _LOW31
    square = low * low
    parts = high * high, high * low, square >> 31, square & _LOW31
    return torch.stack([part.sum(-1) for part in parts])


def sum_of_squares(parts: Tensor) -> Tensor:
    """Return the exact integer sum of q^2 from its parts in float64, rounded as high 2^64 + low."""
    high_high, middle, low_upper, low_lower = parts
    # high_high 2^62 + middle 2^32 + low_upper 2^31 + low_lower, in base 2^32 with carries
    digit0 = (low_lower & _LOW32) + ((low_upper & 1) << 31)
    digit1 = (low_lower >> 32) + ((low_upper >> 1) & _LOW32) + (middle & _LOW32)
    digit1 = digit1 + ((high_high & 3) << 30) + (digit0 >> 32)
    upper = (low_upper >> 33) + (middle >> 32) + (high_high >> 2) + (digit1 >> 32)
    low_word = digit0 & _LOW32, digit1 & _LOW32
    total: Tensor = upper.double() * 2.0**64 + _unsigned_double(*low_word)
    return total


def _unsigned_double(low: Tensor, high: Tensor) -> Tensor:
    """Return the float64 nearest to high 2^32 + low, an unsigned 64-bit number."""
    small = (high << 32) | low
    # a number above 2^63 is halved with a sticky bit, converted with one rounding, and doubled
    halved = ((high << 31) | (low >> 1)) | (low & 1)
    return torch.where(high >= 2**31, halved.double() * 2.0, small.double())


class Weighed(NamedTuple):
    """Integer weights q [P, N], their total [P, 1], and what follows from them, [P] each."""

    q: Tensor
    total: Tensor
    log_mean: Tensor
    ess: Tensor
    collapsed: Tensor
    degenerate: Tensor


def top_weight(log_weights: Tensor) -> Tensor:
    """Return the largest log-weight [P] of log_weights [P, N]; NaN counts as -inf."""
    return log_weights.masked_fill(log_weights.isnan(), -torch.inf).amax(1)


def quantise(log_weights: Tensor, maximum: Tensor, bits: int) -> Tensor:
    """Return q [P, N] from float64 log-weights and the maximum [P] of the population; 1 where that is -inf."""
    top = maximum[:, None]
    # an infinite maximum minus itself would be NaN
    q = quantised_exp(torch.where(log_weights == top, 0.0, log_weights - top), bits)
    # a total of 0 could not be divided by; such a population is marked as collapsed
    return torch.where(top == -torch.inf, 1, q)


def log_mean_weight(maximum: Tensor, total: Tensor, particles: int) -> Tensor:
    """Return m + log(W/(N 2^B)), [P] in nats."""
    return maximum + natural_log(total.double() / (particles * 2.0 ** fraction_bits(particles)))


def effective_size(maximum: Tensor, total: Tensor, squares: Tensor) -> Tensor:
    """Return W²/sum q² [P] in particles, 0 where all weights are zero; squares: the parts of the sum."""
    weight = total.double()
    return torch.where(maximum == -torch.inf, 0.0, weight * weight / sum_of_squares(squares))


def flags(nan: Tensor, maximum: Tensor) -> Tensor:
    """Return the flags of bad weights, int32 [P]; nan: whether a population has a NaN."""
    collapsed, infinite = maximum == -torch.inf, maximum == torch.inf
    return (nan * NAN_SEEN + collapsed * COLLAPSED + infinite * INFINITE).int()


def weigh(log_weights: Tensor) -> Weighed:
    """Return the integer weights of log_weights [P, N]; where all of a population are zero, q is 1."""
    particles = log_weights.shape[1]
    values = log_weights.double()
    maximum = top_weight(values)
    q = quantise(values, maximum, fraction_bits(particles))
    total = q.sum(1)
    return Weighed(
        q=q,
        total=total[:, None],
        log_mean=log_mean_weight(maximum, total, particles),
        ess=effective_size(maximum, total, square_parts(q)),
        collapsed=maximum == -torch.inf,
        degenerate=flags(values.isnan().any(1), maximum),
    )


def divide(numerator: Tensor, factor: Tensor | int, divisor: Tensor) -> tuple[Tensor, Tensor]:
    """Return (floor(numerator factor / divisor), remainder), the quotient below 2^52; products may wrap."""
    scale = torch.as_tensor(factor, device=divisor.device).double() / divisor.double()
    quotient = (numerator.double() * scale).long()
    remainder = numerator * factor - quotient * divisor
    # the quotient from floating point is off by one at most, and integers correct it
    low, high = (remainder < 0).long(), (remainder >= divisor).long()
    return quotient + high - low, remainder + (low - high) * divisor


def exclusive(values: Tensor) -> Tensor:
    """Return the exclusive prefix sums [P, n + 1] of values [P, n]; the last one is the total."""
    return torch.cat([values.new_zeros(len(values), 1), values.cumsum(1)], dim=1)


def first_slots(prefix: Tensor, count: int, total: Tensor, uniform: Tensor) -> Tensor:
    """Return ceil(c M/W - u) for prefix sums c [P, n] of weights that sum to W [P, 1], u float64 [P]."""
    # a uniform of 1 would overflow the 64 bits of the fraction
    inside = uniform.nan_to_num(0.0).clamp(0.0, 0.9999999999999999)
    fraction = (inside * 2.0**53).long() << 11
    threshold = high_product(fraction, total[:, 0])[:, None]
    slot, remainder = divide(prefix, count, total)
    return slot + (remainder > threshold).long()


def from_first_slots(slots: Tensor, count: int) -> Tensor:
    """Return sorted ancestors [P, count] from first slots [P, N]."""
    particle = torch.arange(slots.shape[1], device=slots.device).expand_as(slots)
    marks = torch.zeros(len(slots), count + 1, dtype=torch.int64, device=slots.device)
    # a particle without offspring shares its first slot with the next one, so the maximum wins
    marks.scatter_reduce_(1, slots, particle, reduce="amax")
    return marks[:, :-1].cummax(1).values


def systematic_resample(
    log_weights: Tensor, uniform: Tensor, ess_threshold: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `edmfast.ops.systematic_resample`."""
    particles = log_weights.shape[1]
    weights = weigh(log_weights)
    first = first_slots(exclusive(weights.q), particles, weights.total, uniform)
    resampled = (weights.ess < ess_threshold * particles) & ~weights.collapsed
    identity = torch.arange(particles, device=log_weights.device)
    chosen = from_first_slots(first[:, :-1], particles)
    ancestors = torch.where(resampled[:, None], chosen, identity).int()
    return ancestors, weights.log_mean, weights.ess, resampled, weights.degenerate
