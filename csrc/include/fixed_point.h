// Systematic resampling in integers: weights become q = floor(exp(log w - max) 2^B), prefix sums are
// exact in any order, and the first slot of a particle is ceil(c N / W - u), decided exactly.
#pragma once
#include "portable.h"

namespace edmfast {

// B = 62 - ceil(log2 N): N weights of at most 2^B sum to at most 2^62.
EDMFAST_HD int fraction_bits(int64_t particles) {
  int bits = 0;
  while ((int64_t{1} << bits) < particles) ++bits;
  return 62 - bits;
}

// floor(exp(x) 2^bits) for x <= 0, exp to 1.2e-15 by a near-minimax polynomial exact at 0. Below 2^-63 the result is 0; NaN and -inf give 0.
EDMFAST_HD int64_t quantised_exp(double x, int bits) {
  const bool counts = x > -43.66827237527655;
  const double safe = counts ? x : 0.0;
  const double scaled = mul(safe, 1.4426950408889634);
  // adding 1.5 2^52 rounds to the nearest integer, held in the low bits
  const double shifted = add(scaled, 6755399441055744.0);
  const double n = add(shifted, -6755399441055744.0);
  double r = add(safe, mul(n, -0.693147180369123816490));
  r = add(r, mul(n, -1.90821492927058770002e-10));
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
  p = add(mul(p, r), 1.0);
  const int64_t exponent = static_cast<int64_t>(n) + bits;
  const double value = mul(p, bits_to_double((exponent + 1023) << 52));
  return counts ? static_cast<int64_t>(value) : 0;
}

EDMFAST_HD uint64_t high_product(uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH__
  return __umul64hi(a, b);
#else
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
#endif
}

// Maps an exclusive prefix sum c to the first slot k with k + u >= c N / W.
struct SlotMap {
  int64_t particles;  // N
  int64_t total;      // W, in [1, 2^62]
  int64_t threshold;  // floor(u W), u as a 64-bit fraction
  double ratio;       // N / W, for an estimate that the integers then correct

  EDMFAST_HD SlotMap(int64_t n, int64_t w, double uniform) : particles(n), total(w) {
    const double inside = uniform >= 0.0 && uniform < 1.0 ? uniform : (uniform >= 1.0 ? 0.9999999999999999 : 0.0);
    const uint64_t fraction = static_cast<uint64_t>(mul(inside, 9007199254740992.0)) << 11;
    threshold = static_cast<int64_t>(high_product(fraction, static_cast<uint64_t>(w)));
    ratio = static_cast<double>(n) / static_cast<double>(w);
  }

  EDMFAST_HD int64_t first_slot(int64_t c) const {
    int64_t quotient = static_cast<int64_t>(mul(static_cast<double>(c), ratio));
    // only the low 64 bits matter: the true remainder lies in [0, W)
    int64_t remainder = static_cast<int64_t>(static_cast<uint64_t>(c) * static_cast<uint64_t>(particles) -
                                             static_cast<uint64_t>(quotient) * static_cast<uint64_t>(total));
    const int64_t low = remainder < 0 ? 1 : 0;
    const int64_t high = remainder >= total ? 1 : 0;
    quotient += high - low;
    remainder += (low - high) * total;
    return quotient + (remainder > threshold ? 1 : 0);
  }
};

// ESS = W^2 / sum q^2, the sum held as a 128-bit integer (high, low).
EDMFAST_HD double effective_sample_size(int64_t total, uint64_t high, uint64_t low) {
  const double sum = add(mul(static_cast<double>(high), 18446744073709551616.0), static_cast<double>(low));
  const double w = static_cast<double>(total);
  return total > 0 ? mul(w, w) / sum : 0.0;
}

}  // namespace edmfast
