// A check that ancestors name particles, which comes before anything is read through them.
#pragma once
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>

#include "../include/multiversion.h"

namespace edmfast {

// Returns whether all of n >= 1 ancestors lie in [0, particles). As unsigned numbers, negative ones are the largest.
EDMFAST_MULTIVERSION inline bool all_below(const int32_t* ancestors, int64_t n, int64_t particles) {
  uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t own = static_cast<uint32_t>(ancestors[i]);
    largest = own > largest ? own : largest;
  }
  return static_cast<int64_t>(largest) < particles;
}

inline void check_inside(bool inside, int64_t particles) {
  STD_TORCH_CHECK(inside, "ancestors must lie in 0 to N - 1 = ", particles - 1, " of their own population");
}

}  // namespace edmfast
