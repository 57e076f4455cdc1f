// The integers of fixed_point.h in the fewest instructions of a GPU.
#pragma once
#include "../include/fixed_point.h"

namespace edmfast {

// a b + c with one rounding on a GPU, and with two on the host.
EDMFAST_HD double product_sum(double a, double b, double c) {
#ifdef __CUDA_ARCH__
  return __fma_rn(a, b, c);
#else
  return a * b + c;
#endif
}

EDMFAST_HD uint32_t smaller(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
  return umin(a, b);  // one instruction, which a comparison and a choice do not always become
#else
  return a < b ? a : b;
#endif
}

// quantised_exp(-t, bits) for t >= 0 that is not -0; for NaN it is 0. A product that is exact is fused with its sum,
// which changes no bits; high words are compared in place of doubles, and powers of two are added to the exponent.
EDMFAST_HD int64_t quantised_decay(double t, int bits) {
  constexpr uint32_t kMost = 0x40858000;  // the high word of 688, beyond which exponents would wrap; NaN is above it
  const uint64_t pattern = static_cast<uint64_t>(double_to_bits(t));
  const uint32_t high = static_cast<uint32_t>(pattern >> 32);
  const uint64_t clamped = uint64_t{smaller(high, kMost)} << 32 | (pattern & 0xffffffff);
  const double size = bits_to_double(static_cast<int64_t>(clamped));
  const double shifted = add(mul(size, -1.4426950408889634), kRounder);
  const double n = add(shifted, -kRounder);
  double r = product_sum(n, -0.693147180369123816490, -size);  // an exact product: of 10 bits and 32 bits
  r = add(r, mul(n, -1.90821492927058770002e-10));
  const uint32_t exponent = static_cast<uint32_t>(double_to_bits(shifted)) + static_cast<uint32_t>(bits);
  const uint64_t series = static_cast<uint64_t>(double_to_bits(exp_series(r)));
  const uint32_t upper = static_cast<uint32_t>(series >> 32) + (exponent << 20);
  return static_cast<int64_t>(bits_to_double(static_cast<int64_t>(uint64_t{upper} << 32 | (series & 0xffffffff))));
}

// First slots from one product, for prefix sums that are not too close to a boundary between slots.
struct QuickSlots {
  double scale, shift;

  EDMFAST_HD explicit QuickSlots(const SlotMap& map, double uniform)
      : scale(mul(map.ratio, 524288.0)),
        shift(add(kRounder, add(524290.0, -mul(524288.0, SlotMap::inside(uniform))))) {}
  EDMFAST_HD QuickSlots(double scale_, double shift_) : scale(scale_), shift(shift_) {}

  // c N/W - u + 1 in units of 2^-19, and two units more, in the low 51 bits. It is off by less than two units.
  EDMFAST_HD uint64_t position(int64_t c) const {
    return static_cast<uint64_t>(double_to_bits(product_sum(static_cast<double>(c), scale, shift)));
  }
  EDMFAST_HD static int32_t slot(uint64_t position) {
    return static_cast<int32_t>(static_cast<uint32_t>(position >> 19));
  }
  // True where c N/W - u may be a whole number, or on the other side of one: then only integers can tell.
  EDMFAST_HD static bool unsure(uint64_t position) { return (position & 0x7fffc) == 0; }
};

// The two digits of integer weights q = h 2^d + l, for sums of squares without carries: with N weights of at most
// 2^bits and N 2^bits <= 2^62, the sums of h^2, of h l and of l^2 stay below 2^64.
EDMFAST_HD int digit_bits(int bits) { return (bits + 1) / 2; }

// The sum of q^2 from those of h^2, h l and l^2.
EDMFAST_HD Words words_of_digits(uint64_t high_high, uint64_t high_low, uint64_t low_low, int d) {
  // 2^(2 d) and 2^(d + 1) are shifts from 1 to 62
  const uint64_t squares = high_high << (2 * d), crosses = high_low << (d + 1);
  const uint64_t first = squares + crosses, low = first + low_low;
  const uint64_t carries = (first < squares ? 1 : 0) + (low < first ? 1 : 0);
  return {(high_high >> (64 - 2 * d)) + (high_low >> (63 - d)) + carries, low};
}

}  // namespace edmfast
