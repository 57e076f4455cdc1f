// The integers of systematic resampling, each computed in two ways: by wide conversions and products, and by halves.
#include "../../csrc/include/fixed_point.h"

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
    differing += quantised_exp<true>(exponents[i], bits) != quantised_exp<false>(exponents[i], bits);
  return differing;
}
}
