// The loops of systematic resampling over one chunk of particles.
#pragma once
#include <algorithm>
#include <limits>

#include "../include/fixed_point.h"
#include "../include/multiversion.h"

namespace edmfast {

// The sum of q and, exactly, of q^2: with q = high 2^31 + low, each partial sum stays below 2^63.
struct WeightSums {
  int64_t total = 0, high_high = 0, high_low = 0, low_upper = 0, low_lower = 0;

  void operator+=(const WeightSums& other) {
    total += other.total;
    high_high += other.high_high;
    high_low += other.high_low;
    low_upper += other.low_upper;
    low_lower += other.low_lower;
  }

  Words squares() const { return words_of(high_high, high_low, low_upper, low_lower); }
};

struct Maximum {
  double value = -std::numeric_limits<double>::infinity();
  bool has_nan = false;
};

inline Maximum larger(const Maximum& a, const Maximum& b) {
  return {b.value > a.value ? b.value : a.value, a.has_nan || b.has_nan};
}

template <class T>
EDMFAST_HD Maximum maximum_body(const T* log_weights, int64_t n) {
  T best = -std::numeric_limits<T>::infinity();
  int nan = 0;
#pragma omp simd reduction(max : best) reduction(| : nan)
  for (int64_t i = 0; i < n; ++i) {
    best = log_weights[i] > best ? log_weights[i] : best;
    nan |= log_weights[i] != log_weights[i];
  }
  return {static_cast<double>(best), nan != 0};
}

template <bool kConverts, class T>
EDMFAST_HD void quantise_body(const T* log_weights, double maximum, int bits, int64_t* q, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const double value = static_cast<double>(log_weights[i]);
    // the comparison makes the difference 0 also where the maximum is +inf
    q[i] = quantised_exp<kConverts>(value == maximum ? 0.0 : value - maximum, bits);
  }
}

EDMFAST_MULTIVERSION inline Maximum find_maximum(const float* w, int64_t n) { return maximum_body(w, n); }
EDMFAST_MULTIVERSION inline Maximum find_maximum(const double* w, int64_t n) { return maximum_body(w, n); }
EDMFAST_BY_CONVERSION(void quantise(const float* w, double maximum, int bits, int64_t* q, int64_t n),
                      quantise_body<kConverts>(w, maximum, bits, q, n);)
EDMFAST_BY_CONVERSION(void quantise(const double* w, double maximum, int bits, int64_t* q, int64_t n),
                      quantise_body<kConverts>(w, maximum, bits, q, n);)

// Sums the weights and replaces each by the sum of those before it, starting from `before`.
EDMFAST_MULTIVERSION inline WeightSums scan_weights(int64_t* q, int64_t n, int64_t before) {
  WeightSums sums;
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t high = static_cast<uint32_t>(q[i] >> 31);
    const uint64_t low = static_cast<uint32_t>(q[i] & 0x7fffffff);
    const uint64_t square = low * low;
    sums.high_high += static_cast<int64_t>(high * high);
    sums.high_low += static_cast<int64_t>(high * low);
    sums.low_upper += static_cast<int64_t>(square >> 31);
    sums.low_lower += static_cast<int64_t>(square & 0x7fffffff);
  }
  int64_t running = before;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t weight = q[i];
    q[i] = running;
    running += weight;
  }
  sums.total = running - before;
  return sums;
}

template <bool kConverts>
EDMFAST_HD void first_slots_body(const int64_t* prefix, int64_t offset, const SlotMap& map, int32_t* slots, int64_t n) {
  for (int64_t i = 0; i < n; ++i) slots[i] = static_cast<int32_t>(map.first_slot<kConverts>(prefix[i] + offset));
}

EDMFAST_BY_CONVERSION(void first_slots(const int64_t* prefix, int64_t offset, SlotMap map, int32_t* slots, int64_t n),
                      first_slots_body<kConverts>(prefix, offset, map, slots, n);)

// The copies of a particle that are written at once.
constexpr int32_t kCopies = 8;

EDMFAST_HD void write_copies(int32_t* to, int32_t particle) {
  for (int32_t j = 0; j < kCopies; ++j) to[j] = particle;
}

// Writes kCopies of every particle from its first slot on, and more of the few particles that own more. The next
// particle overwrites the surplus. So most counts take no branch, and there are at most n + slots / kCopies writes.
EDMFAST_MULTIVERSION inline void fill_slots(const int32_t* slots, int64_t first, int64_t n, int32_t* ancestors) {
  const int32_t end = slots[n];
  int64_t inside = n;
  while (inside > 0 && slots[inside - 1] > end - kCopies) --inside;
  for (int64_t i = 0; i < inside; ++i) {
    const int32_t particle = static_cast<int32_t>(first + i), next = slots[i + 1];
    int32_t slot = slots[i];
    write_copies(ancestors + slot, particle);
    while (__builtin_expect(next - slot > kCopies, 0)) {
      slot = std::min(slot + kCopies, end - kCopies);
      write_copies(ancestors + slot, particle);
    }
  }
  for (int64_t i = inside; i < n; ++i)
    for (int32_t k = slots[i]; k < slots[i + 1]; ++k) ancestors[k] = static_cast<int32_t>(first + i);
}

}  // namespace edmfast
