// Whole populations of at most kSmall particles, several at once, in the first-level cache.
#pragma once
#include <algorithm>

#include "../include/decision.h"
#include "resample_kernels.h"

namespace edmfast {

constexpr int64_t kSmall = 1024, kFew = 16;

// A group of populations with kSmall particles together at most.
struct SmallGroup {
  Maximum maxima[kSmall];
  double shifted[kSmall];
  int64_t weights[kSmall];
  int32_t slots[kSmall + 1];
};

// Without vectors, whose horizontal end costs more than a handful of comparisons.
template <class T>
EDMFAST_HD Maximum maximum_of_few(const T* log_weights, int64_t n) {
  T best = -std::numeric_limits<T>::infinity();
  bool nan = false;
  for (int64_t i = 0; i < n; ++i) {
    best = log_weights[i] > best ? log_weights[i] : best;
    nan |= log_weights[i] != log_weights[i];
  }
  return {static_cast<double>(best), nan};
}

template <class T>
EDMFAST_HD void weigh_body(const T* log_weights, int64_t populations, int64_t n, int bits, SmallGroup& group) {
  for (int64_t p = 0; p < populations; ++p) {
    const T* w = log_weights + p * n;
    group.maxima[p] = n < kFew ? maximum_of_few(w, n) : maximum_body(w, n);
    const double maximum = group.maxima[p].value;
    for (int64_t i = 0; i < n; ++i) {
      const double value = static_cast<double>(w[i]);
      group.shifted[p * n + i] = value == maximum ? 0.0 : value - maximum;
    }
  }
  for (int64_t i = 0; i < populations * n; ++i) group.weights[i] = quantised_exp(group.shifted[i], bits);
}

EDMFAST_MULTIVERSION inline void weigh(const float* w, int64_t populations, int64_t n, int bits, SmallGroup& group) {
  weigh_body(w, populations, n, bits, group);
}
EDMFAST_MULTIVERSION inline void weigh(const double* w, int64_t populations, int64_t n, int bits, SmallGroup& group) {
  weigh_body(w, populations, n, bits, group);
}

struct SmallSums {
  int64_t total = 0;
  unsigned __int128 squares = 0;
};

// Replaces the weights by their exclusive prefix sum.
inline SmallSums scan_small(int64_t* q, int64_t n) {
  if (n >= kFew) {
    const WeightSums sums = scan_weights(q, n, 0);
    return {sums.total, sums.squares()};
  }
  SmallSums sums;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t weight = q[i];
    sums.squares += static_cast<unsigned __int128>(weight) * static_cast<uint64_t>(weight);
    q[i] = sums.total;
    sums.total += weight;
  }
  return sums;
}

inline void fill_small(const int64_t* prefix, int64_t n, const SlotMap& map, int32_t* slots, int32_t* ancestors) {
  slots[n] = static_cast<int32_t>(n);
  if (n >= kFew) {
    first_slots(prefix, 0, map, slots, n);
    fill_slots(slots, 0, n, ancestors);
    return;
  }
  for (int64_t i = 0; i < n; ++i) slots[i] = static_cast<int32_t>(map.first_slot(prefix[i]));
  for (int64_t i = 0; i < n; ++i) ancestors[i] = 0;
  for (int64_t i = 0; i < n; ++i)
    if (slots[i] < n) ancestors[slots[i]] = static_cast<int32_t>(i);
  for (int64_t i = 1; i < n; ++i) ancestors[i] = std::max(ancestors[i], ancestors[i - 1]);
}

}  // namespace edmfast
