// What the totals of one population say: effective sample size, log-mean weight, whether to resample.
#pragma once
#include <cmath>
#include <limits>

#include "fixed_point.h"

namespace edmfast {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Bits of Decision::degenerate.
constexpr int32_t kNanSeen = 1, kCollapsed = 2, kInfinite = 4;

struct Decision {
  double ess = 0.0;
  double log_mean = 0.0;
  bool resampled = false;
  int32_t degenerate = 0;
};

// `total`: the sum of the integer weights; (`high`, `low`): the 128-bit sum of their squares.
EDMFAST_HD Decision decide(double maximum, bool has_nan, int64_t total, uint64_t high, uint64_t low,
                           int64_t particles, double ess_threshold) {
  const bool collapsed = !(maximum > -kInfinity);
  Decision decision;
  decision.degenerate =
      (has_nan ? kNanSeen : 0) | (collapsed ? kCollapsed : 0) | (maximum == kInfinity ? kInfinite : 0);
  if (collapsed) {
    decision.log_mean = -kInfinity;
    return decision;
  }
  const double n = static_cast<double>(particles);
  const double scale = bits_to_double(int64_t{1023 + fraction_bits(particles)} << 52);
  decision.ess = effective_sample_size(total, high, low);
  decision.log_mean = add(maximum, std::log(static_cast<double>(total) / mul(n, scale)));
  decision.resampled = decision.ess < mul(ess_threshold, n);
  return decision;
}

}  // namespace edmfast
