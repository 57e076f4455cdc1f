// The integers of systematic resampling, each computed in two ways: by wide conversions and products, and by halves;
// and in the fewest instructions of a GPU.
#include "../../csrc/cuda/quick_fixed_point.h"

using namespace edmfast;

extern "C" {

// Returns how many of the prefix sums in [0, total] get another slot, or another double, by halves.
int64_t differing_slots(const int64_t* sums, int64_t count, int64_t particles, int64_t total, double uniform) {
  const SlotMap map(particles, total, uniform);
  int64_t differing = 0;
  for (int64_t i = 0; i < count; ++i) {
    differing += map.first_slot<true>(sums[i]) != map.first_slot<false>(sums[i]);
    differing += double_by_halves(sums[i]) != static_cast<double>(sums[i]);
  }
  return differing;
}

int64_t differing_weights(const double* exponents, int64_t count, int bits) {
  int64_t differing = 0;
  for (int64_t i = 0; i < count; ++i)
    differing += quantised_exp<true>(exponents[i], bits) != quantised_exp<false>(exponents[i], bits) ||
                 quantised_exp<true>(exponents[i], bits) != quantised_decay(0.0 - exponents[i], bits);
  return differing;
}

// Returns how many quick slots are wrong, though they claim to be sure, and counts those that do not.
int64_t wrong_quick_slots(const int64_t* sums, int64_t count, int64_t particles, int64_t total, double uniform,
                          int64_t* unsure) {
  const SlotMap map(particles, total, uniform);
  const QuickSlots quick(map, uniform);
  int64_t wrong = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t position = quick.position(sums[i]);
    if (QuickSlots::unsure(position)) {
      ++*unsure;
    } else {
      wrong += static_cast<uint32_t>(QuickSlots::slot(position)) != static_cast<uint64_t>(map.first_slot(sums[i]));
    }
  }
  return wrong;
}

// Returns whether the sum of squares by digits is that of 128-bit integers.
bool same_squares(const int64_t* weights, int64_t count, int bits) {
  const int d = digit_bits(bits);
  uint64_t high_high = 0, high_low = 0, low_low = 0;
  unsigned __int128 wanted = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t q = static_cast<uint64_t>(weights[i]), high = q >> d, low = q & ((uint64_t{1} << d) - 1);
    high_high += high * high;
    high_low += high * low;
    low_low += low * low;
    wanted += static_cast<unsigned __int128>(q) * q;
  }
  const Words words = words_of_digits(high_high, high_low, low_low, d);
  return words.high == static_cast<uint64_t>(wanted >> 64) && words.low == static_cast<uint64_t>(wanted);
}
}
