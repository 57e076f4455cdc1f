// Increments of log-weights, one block of particles at a time, and the moments of their spread.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>

#include "../include/decision.h"
#include "../include/models.h"
#include "../include/multiversion.h"
#include "../include/portable.h"
#include "ancestors.h"

namespace edmfast {

constexpr int64_t kWeighBlock = 1024;
constexpr int kMomentLanes = 8;

// Sums over the finite increments minus the first increment of the population.
struct Spread {
  double sum = 0.0, squares = 0.0, count = 0.0;

  void operator+=(const Spread& other) {
    sum += other.sum;
    squares += other.squares;
    count += other.count;
  }
};

template <class E>
EDMFAST_HD void widen_body(const E* from, double* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<double>(from[i]);
}

template <class E>
EDMFAST_HD void subtract_change_body(const E* now, const E* before, double exponent, double* increments, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    increments[i] -= exponent * (static_cast<double>(now[i]) - static_cast<double>(before[i]));
}

// `before` is the whole population, which is read through the ancestors.
template <class E>
EDMFAST_HD void subtract_change_body(const E* now, const E* before, const int32_t* ancestors, double exponent,
                                     double* increments, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    increments[i] -= exponent * (static_cast<double>(now[i]) - static_cast<double>(before[ancestors[i]]));
}

#define EDMFAST_WEIGH_KERNELS(E)                                                                                   \
  EDMFAST_MULTIVERSION inline void widen_block(const E* from, double* to, int64_t n) { widen_body(from, to, n); }  \
  EDMFAST_MULTIVERSION inline void subtract_change(const E* now, const E* before, double exponent,                 \
                                                   double* increments, int64_t n) {                                \
    subtract_change_body(now, before, exponent, increments, n);                                                    \
  }                                                                                                                \
  EDMFAST_MULTIVERSION inline void subtract_change(const E* now, const E* before, const int32_t* ancestors,        \
                                                   double exponent, double* increments, int64_t n) {               \
    subtract_change_body(now, before, ancestors, exponent, increments, n);                                         \
  }
EDMFAST_WEIGH_KERNELS(float)
EDMFAST_WEIGH_KERNELS(double)
#undef EDMFAST_WEIGH_KERNELS

// The order of summation depends on the block only.
template <bool kAllFinite>
EDMFAST_HD Spread spread_body(const double* increments, double centre, int64_t n) {
  double sum[kMomentLanes] = {}, squares[kMomentLanes] = {};
  Spread all;
  const auto one = [&](int64_t i, int64_t lane) __attribute__((always_inline)) {
    const double off = increments[i] - centre;
    const bool counts = kAllFinite || off - off == 0.0;
    sum[lane] += counts ? off : 0.0;
    squares[lane] += counts ? off * off : 0.0;
    if (!kAllFinite) all.count += counts ? 1.0 : 0.0;
  };
  int64_t i = 0;
  for (; i + kMomentLanes <= n; i += kMomentLanes) {
#pragma omp simd
    for (int lane = 0; lane < kMomentLanes; ++lane) one(i + lane, lane);
  }
  for (; i < n; ++i) one(i, i % kMomentLanes);
  for (int lane = 0; lane < kMomentLanes; ++lane) {
    all.sum += sum[lane];
    all.squares += squares[lane];
  }
  if (kAllFinite) all.count = static_cast<double>(n);
  return all;
}

EDMFAST_MULTIVERSION inline Spread spread_of(const double* increments, double centre, int64_t n) {
  const Spread all = spread_body<true>(increments, centre, n);
  // an increment that is not finite shows in the sum of squares; such blocks are rare enough for a second look
  return all.squares - all.squares == 0.0 ? all : spread_body<false>(increments, centre, n);
}

EDMFAST_MULTIVERSION inline void add_increments(const double* before, const double* increments, double* after,
                                                int64_t n) {
  // a particle of weight zero keeps it: behind a wall, energies are infinite before and after a move
  for (int64_t i = 0; i < n; ++i) after[i] = before[i] == -kInfinity ? -kInfinity : before[i] + increments[i];
}

// Writes the roots of n >= 1 slots and returns how often they change from one slot to the next.
EDMFAST_MULTIVERSION inline int64_t gather_roots(const int32_t* root, const int32_t* ancestors, int32_t* out,
                                                 int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = root[ancestors[i]];
  int32_t changes = 0;
#pragma omp simd reduction(+ : changes)
  for (int64_t i = 1; i < n; ++i) changes += out[i] != out[i - 1] ? 1 : 0;
  return changes;
}

// Writes log-weights before they are resampled: the source of a resampling job.
template <class E>
struct Increments {
  const double* log_weights;   // those of the level before
  const bool* reset;           // per population: the last decision
  const int32_t* ancestors;    // the last ones
  const E* ratio;
  const E* energies[kMaxModels];
  const E* energies_before[kMaxModels];
  const double* exponents;     // [P, models], or null where all are 1
  int64_t models, particles;
  bool weigh;
  double* out;
  Spread* spreads;  // per population and block
  std::atomic<bool>* outside;  // set where ancestors name no particle; nothing is read through those

  int64_t blocks() const { return (particles + kWeighBlock - 1) / kWeighBlock; }
  double exponent(int64_t p, int64_t k) const { return exponents == nullptr ? 1.0 : exponents[p * models + k]; }

  // The increments of particles [first, first + n) of population p.
  void of(int64_t p, int64_t first, int64_t n, double* increments) const {
    const int64_t row = p * particles, start = row + first;
    widen_block(ratio + start, increments, n);
    for (int64_t k = 0; k < models; ++k) {
      const E *now = energies[k] + start, *before = energies_before[k] + row;
      if (reset[p]) {
        subtract_change(now, before, ancestors + start, exponent(p, k), increments, n);
      } else {
        subtract_change(now, before + first, exponent(p, k), increments, n);
      }
    }
  }

  // `first` must begin a block.
  void prepare(int64_t p, int64_t first, int64_t count) const {
    double centre, increments[kWeighBlock];
    if (models > 0 && reset[p]) {
      const int32_t* own = ancestors + p * particles;
      if ((first > 0 && !all_below(own, 1, particles)) || !all_below(own + first, count, particles)) {
        *outside = true;
        std::fill_n(out + p * particles + first, count, 0.0);
        return;
      }
    }
    of(p, 0, 1, &centre);
    centre = centre - centre == 0.0 ? centre : 0.0;
    for (int64_t start = first; start < first + count; start += kWeighBlock) {
      const int64_t n = std::min(kWeighBlock, first + count - start), at = p * particles + start;
      of(p, start, n, increments);
      spreads[p * blocks() + start / kWeighBlock] = spread_of(increments, centre, n);
      if (reset[p]) {
        weigh ? std::copy_n(increments, n, out + at) : std::fill_n(out + at, n, 0.0);
      } else if (weigh) {
        add_increments(log_weights + at, increments, out + at, n);
      } else {
        std::copy_n(log_weights + at, n, out + at);
      }
    }
  }

  double standard_deviation(int64_t p) const {
    Spread all;
    for (int64_t b = p * blocks(); b < (p + 1) * blocks(); ++b) all += spreads[b];
    const double n = all.count, variance = (all.squares - all.sum * all.sum / n) / n;
    // rounding may leave a little below zero; without a finite increment the result is NaN
    return variance < 0.0 ? 0.0 : std::sqrt(variance);
  }
};

}  // namespace edmfast
