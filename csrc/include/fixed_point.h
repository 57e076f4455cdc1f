// Systematic resampling in integers: weights become q = floor(exp(log w - max) 2^B), prefix sums are exact in any
// order, and the first slot of a particle is ceil(c N / W - u), decided exactly.
#pragma once
#include "portable.h"

namespace edmfast {

// B = 62 - ceil(log2 N), with which N weights of at most 2^B sum to at most 2^62.
EDMFAST_HD int fraction_bits(int64_t particles) {
  int bits = 0;
  while ((int64_t{1} << bits) < particles) ++bits;
  return 62 - bits;
}

// 1.5 2^52: the sum of this and a double of moderate size has the nearest integer in its low bits.
constexpr double kRounder = 6755399441055744.0;
constexpr int64_t kRounderBits = 0x4338000000000000;

// exp(r) of a remainder after multiples of log 2, to 1.2e-15, by a near-minimax polynomial that is exact at 0.
EDMFAST_HD double exp_series(double r) {
  double p = 2.7613852100963253e-07;
  p = add(mul(p, r), 2.7625169883520667e-06);
  p = add(mul(p, r), 2.480153630713628e-05);
  p = add(mul(p, r), 0.00019841208634639135);
  p = add(mul(p, r), 0.0013888888905922382);
  p = add(mul(p, r), 0.00833333335377842);
  p = add(mul(p, r), 0.04166666666665131);
  p = add(mul(p, r), 0.1666666666664823);
  p = add(mul(p, r), 0.5);
  p = add(mul(p, r), 1.0);
  return add(mul(p, r), 1.0);
}

// floor(exp(x) 2^bits) for x <= 0, with exp to 1.2e-15. Below 2^-63 the result is 0; NaN and -inf give 0. kConverts:
// whether to use an instruction from double to int64. Without one, the mantissa is shifted, which vectors without such
// an instruction do 2.7 times as fast; the integers are the same.
template <bool kConverts = true>
EDMFAST_HD int64_t quantised_exp(double x, int bits) {
  const bool counts = x > (kConverts ? -43.66827237527655 : -0.6931471805599453 * (bits + 0.5));
  const double safe = counts ? x : 0.0;
  const double shifted = add(mul(safe, 1.4426950408889634), kRounder);
  const double n = add(shifted, -kRounder);
  double r = add(safe, mul(n, -0.693147180369123816490));
  r = add(r, mul(n, -1.90821492927058770002e-10));
  const double p = exp_series(r);
  if constexpr (kConverts) {
    const int64_t exponent = static_cast<int64_t>(n) + bits;
    const double value = mul(p, bits_to_double((exponent + 1023) << 52));
    return counts ? static_cast<int64_t>(value) : 0;
  }
  // unsigned, since vectors without wide conversions cannot shift signs in either
  const uint64_t pattern = static_cast<uint64_t>(double_to_bits(p));
  const uint64_t mantissa = ((pattern & 0xfffffffffffff) | 0x10000000000000) << 10;
  // the shift from 2^62 times the mantissa in [1, 2) down to its exponent, 0 to 63
  const uint64_t down = static_cast<uint64_t>((62 + 1023 - bits + kRounderBits) - double_to_bits(shifted)) - (pattern >> 52);
  return counts ? static_cast<int64_t>(mantissa >> down) : 0;
}

// log(x) of a positive normal double to about an ulp, with the same bits everywhere: a Taylor series of 2 atanh.
EDMFAST_HD double natural_log(double x) {
  const int64_t pattern = double_to_bits(x);
  const int64_t exponent = (pattern - 0x3fe6a09e667f3bcd) >> 52;  // mantissa in [sqrt(1/2), sqrt(2))
  const double mantissa = bits_to_double(pattern - (exponent << 52));
  const double s = divide(add(mantissa, -1.0), add(mantissa, 1.0));
  const double s2 = mul(s, s);
  double series = 2.0 / 21.0;
  series = add(mul(series, s2), 2.0 / 19.0);
  series = add(mul(series, s2), 2.0 / 17.0);
  series = add(mul(series, s2), 2.0 / 15.0);
  series = add(mul(series, s2), 2.0 / 13.0);
  series = add(mul(series, s2), 2.0 / 11.0);
  series = add(mul(series, s2), 2.0 / 9.0);
  series = add(mul(series, s2), 2.0 / 7.0);
  series = add(mul(series, s2), 2.0 / 5.0);
  series = add(mul(series, s2), 2.0 / 3.0);
  series = add(mul(mul(series, s2), s), mul(2.0, s));
  const double n = static_cast<double>(exponent);
  return add(mul(n, 0.693147180369123816490), add(mul(n, 1.90821492927058770002e-10), series));
}

EDMFAST_HD uint64_t high_product(uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH__
  return __umul64hi(a, b);
#else
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
#endif
}

// The same for operands whose product a vector has no instruction for.
EDMFAST_HD uint64_t high_product_by_halves(uint64_t a, uint64_t b) {
  constexpr uint64_t half = 0xffffffffu;
  const uint64_t a0 = a & half, a1 = a >> 32, b0 = b & half, b1 = b >> 32;
  const uint64_t middle = a1 * b0, cross = a0 * b1 + ((a0 * b0) >> 32);
  return a1 * b1 + (middle >> 32) + (cross >> 32) + (((middle & half) + (cross & half)) >> 32);
}

// The low word of a b, for b from 0 to 2^32 - 1.
template <bool kMultiplies>
EDMFAST_HD uint64_t low_product(int64_t a, int64_t b) {
  const uint64_t word = static_cast<uint64_t>(a), factor = static_cast<uint64_t>(b);
  if constexpr (kMultiplies) return word * factor;
  constexpr uint64_t half = 0xffffffffu;
  return (word & half) * (factor & half) + (((word >> 32) * (factor & half)) << 32);
}

// The double nearest to a non-negative integer. Its halves are added to powers of two: both sums are exact, and only
// the last addition rounds.
EDMFAST_HD double double_by_halves(int64_t a) {
  const int64_t low = (a & 0xffffffff) | 0x4330000000000000;                              // 2^52 + low
  const int64_t high = static_cast<int64_t>(static_cast<uint64_t>(a) >> 32) | 0x4530000000000000;  // 2^84 + high
  return add(add(bits_to_double(high), -19342813118337666422669312.0), bits_to_double(low));  // -(2^84 + 2^52)
}

// A 128-bit sum of squares.
struct Words {
  uint64_t high, low;
};

// Sums over q = h 2^31 + l: of h^2, of h l, and of the parts of l^2 above and below 31 bits, each below 2^63.
EDMFAST_HD Words words_of(int64_t high_high, int64_t high_low, int64_t low_upper, int64_t low_lower) {
  constexpr uint64_t half = 0xffffffffu;
  const uint64_t hh = static_cast<uint64_t>(high_high), hl = static_cast<uint64_t>(high_low);
  const uint64_t lu = static_cast<uint64_t>(low_upper), ll = static_cast<uint64_t>(low_lower);
  // hh 2^62 + hl 2^32 + lu 2^31 + ll in digits of 32 bits, with carries
  const uint64_t digit0 = (ll & half) + ((lu & 1) << 31);
  const uint64_t digit1 = (ll >> 32) + ((lu >> 1) & half) + (hl & half) + ((hh & 3) << 30) + (digit0 >> 32);
  return {(lu >> 33) + (hl >> 32) + (hh >> 2) + (digit1 >> 32), digit1 << 32 | (digit0 & half)};
}

// Maps an exclusive prefix sum c to the first slot k with k + u >= c N / W.
struct SlotMap {
  int64_t particles;  // N
  int64_t total;      // W, in [1, 2^62]
  int64_t threshold;  // floor(u W), u as a 64-bit fraction
  double ratio;       // N / W, for an estimate that the integers then correct

  // The nearest uniform in [0, 1), and 0 for NaN.
  EDMFAST_HD static double inside(double uniform) {
    return uniform >= 0.0 && uniform < 1.0 ? uniform : (uniform >= 1.0 ? 0.9999999999999999 : 0.0);
  }

  EDMFAST_HD SlotMap(int64_t n, int64_t w, double uniform) : particles(n), total(w) {
    const uint64_t fraction = static_cast<uint64_t>(mul(inside(uniform), 9007199254740992.0)) << 11;
    threshold = static_cast<int64_t>(high_product_by_halves(fraction, static_cast<uint64_t>(w)));
    ratio = divide(static_cast<double>(n), static_cast<double>(w));
  }
  EDMFAST_HD SlotMap(int64_t n, int64_t w, int64_t threshold_, double ratio_)
      : particles(n), total(w), threshold(threshold_), ratio(ratio_) {}

  // kConverts has the meaning of quantised_exp; without it, products are of 32-bit halves too, with the same integers.
  template <bool kConverts = true>
  EDMFAST_HD int64_t first_slot(int64_t c) const {
    // the estimate is off by less than 2^-20, so its nearest integer is the floor or one more
    const double rounded = add(mul(kConverts ? static_cast<double>(c) : double_by_halves(c), ratio), kRounder);
    const int64_t nearest = double_to_bits(rounded) - kRounderBits;
    // only the low 64 bits matter, because the true remainder lies in [-W, W)
    const int64_t remainder = static_cast<int64_t>(low_product<kConverts>(c, particles) -
                                                   low_product<kConverts>(total, nearest));
    const bool above = remainder < 0;
    return nearest - (above ? 1 : 0) + (remainder > (above ? threshold - total : threshold) ? 1 : 0);
  }
};

// ESS = W^2 / sum q^2, with the sum held as a 128-bit integer (high, low).
EDMFAST_HD double effective_sample_size(int64_t total, uint64_t high, uint64_t low) {
  const double sum = add(mul(static_cast<double>(high), 18446744073709551616.0), static_cast<double>(low));
  const double w = static_cast<double>(total);
  return total > 0 ? mul(w, w) / sum : 0.0;
}

}  // namespace edmfast
