// The decision about one population from its totals: effective sample size, log-mean weight, and whether to resample.
#pragma once
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

// `total` is the sum of the integer weights, which have `bits` fraction bits; (`high`, `low`) is the 128-bit sum of
// their squares. There are no branches, so that vectors of populations can use it.
EDMFAST_HD Decision decide(double maximum, bool has_nan, int64_t total, uint64_t high, uint64_t low,
                           int64_t particles, int bits, double ess_threshold) {
  const bool collapsed = !(maximum > -kInfinity);
  const double n = static_cast<double>(particles);
  const double scale = bits_to_double(int64_t{1023 + bits} << 52);
  const double mean = divide(static_cast<double>(total > 0 ? total : 1), mul(n, scale));
  Decision decision;
  decision.ess = collapsed ? 0.0 : effective_sample_size(total, high, low);
  decision.log_mean = collapsed ? -kInfinity : add(maximum, natural_log(mean));
  decision.resampled = !collapsed && decision.ess < mul(ess_threshold, n);
  decision.degenerate =
      (has_nan ? kNanSeen : 0) | (collapsed ? kCollapsed : 0) | (maximum == kInfinity ? kInfinite : 0);
  return decision;
}

}  // namespace edmfast
