// The parts that every path of systematic resampling shares: the job, the integer weights, and the decision.
#pragma once
#include <limits>

#include "../include/decision.h"
#include "../include/philox.h"
#include "collective.h"
#include "quick_fixed_point.h"

namespace edmfast {

// The tensors that weigh_and_resample carries from one level to the next; all are null for a resampling alone.
struct Carried {
  const int64_t* rng;  // (seed, step) of the uniforms
  int64_t first_population;
  const double* log_z_before;
  double* log_z;
  const int32_t* degenerate_before;
  const int32_t* root_before;
  int32_t* root;
  double* increment_sd;
  int64_t* survivors;
};

template <class T>
struct ResampleJob {
  const T* log_weights;
  const double* uniform;  // null where the uniforms come from carried.rng
  double ess_threshold;
  int32_t* ancestors;
  double* log_mean;
  double* ess;
  bool* resampled;
  int32_t* degenerate;
  int64_t populations, particles;
  Carried carried;
};

template <class T>
__device__ __forceinline__ double uniform_of(const ResampleJob<T>& job, int64_t p) {
  if (job.uniform != nullptr) return job.uniform[p];
  const int64_t* rng = job.carried.rng;
  const Philox4 words = philox({0, static_cast<uint32_t>(rng[1]), 0, stream_word(3, job.carried.first_population + p)},
                               static_cast<uint64_t>(rng[0]));
  const uint64_t bits = uint64_t{words.a} << 21 | words.b >> 11;
  return mul(static_cast<double>(bits), 1.1102230246251565e-16);
}

// The starting particle that a particle of population p descends from; 0 where roots are not carried.
template <class T>
__device__ __forceinline__ int32_t root_of(const ResampleJob<T>& job, int64_t p, int64_t particle) {
  return job.carried.root != nullptr ? job.carried.root_before[p * job.particles + particle] : 0;
}

// Slot k of population p takes the particle `owner`. Returns the root of that particle.
template <class T>
__device__ __forceinline__ int32_t store_ancestor(const ResampleJob<T>& job, int64_t p, int64_t k, int32_t owner) {
  const int64_t row = p * job.particles;
  job.ancestors[row + k] = owner;
  const int32_t root = root_of(job, p, owner);
  if (job.carried.root != nullptr) job.carried.root[row + k] = root;
  return root;
}

// Members have no default values here and below, because shared memory takes no constructors.
struct Maximum {
  double value;
  int64_t has_nan;
};

// Sum of the integer weights, and of their squares in 128 bits.
struct Totals {
  int64_t total;
  uint64_t high, low;
};

__device__ __forceinline__ Totals combined(const Totals& a, const Totals& b) {
  const uint64_t low = a.low + b.low;
  return {a.total + b.total, a.high + b.high + (low < a.low ? 1 : 0), low};
}

__device__ __forceinline__ Totals totals_of(int64_t weight) {
  const uint64_t q = static_cast<uint64_t>(weight);
  return {weight, high_product(q, q), q * q};
}

__device__ __forceinline__ Maximum larger(const Maximum& a, const Maximum& b) {
  return {b.value > a.value ? b.value : a.value, a.has_nan | b.has_nan};
}

template <class T>
__device__ __forceinline__ int64_t integer_weight(T log_weight, double maximum, int bits) {
  const double value = static_cast<double>(log_weight);
  // the comparison makes the difference 0 also where the maximum is +inf
  return quantised_decay(value == maximum ? 0.0 : maximum - value, bits);
}

// Runs in one thread for each population: writes its outputs and returns whether it is resampled.
template <class T>
__device__ __forceinline__ bool decide_population(const ResampleJob<T>& job, int64_t p, const Maximum& maximum,
                                                  const Totals& sums) {
  const Decision decision = decide(maximum.value, maximum.has_nan != 0, sums.total, sums.high, sums.low,
                                   job.particles, fraction_bits(job.particles), job.ess_threshold);
  job.ess[p] = decision.ess;
  job.log_mean[p] = decision.log_mean;
  job.degenerate[p] = decision.degenerate;
  job.resampled[p] = decision.resampled;
  const Carried& carried = job.carried;
  if (carried.log_z != nullptr) {
    job.degenerate[p] |= carried.degenerate_before[p];
    const double before = carried.log_z_before[p];
    carried.log_z[p] = decision.resampled ? add(before, decision.log_mean) : before;
  }
  return decision.resampled;
}

// Sums over the finite increments minus the first increment of the population.
struct Spread {
  double sum, squares, count;
};

__device__ __forceinline__ Spread combined(const Spread& a, const Spread& b) {
  return {a.sum + b.sum, a.squares + b.squares, a.count + b.count};
}

// Adds a number where it is finite.
__device__ __forceinline__ void note_spread(Spread& spread, double off) {
  // the exponent tells, without arithmetic on doubles
  const bool finite = (static_cast<uint32_t>(double_to_bits(off) >> 32) & 0x7ff00000) != 0x7ff00000;
  const double own = finite ? off : 0.0;
  spread = {spread.sum + own, spread.squares + own * own, spread.count + (finite ? 1.0 : 0.0)};
}

__device__ __forceinline__ double standard_deviation(const Spread& spread) {
  const double n = spread.count;
  const double variance = (spread.squares - spread.sum * spread.sum / n) / n;
  // rounding may leave a little below zero; without a finite increment the result is NaN
  return variance < 0.0 ? 0.0 : sqrt(variance);
}

// A source of log-weights that exist already. `Increments` writes them when they are first read.
template <class T>
struct Given {
  static constexpr bool kSpreads = false;
  const T* log_weights;
  int64_t particles;

  __device__ __forceinline__ double operator()(int64_t p, int64_t i, Spread&) const {
    return static_cast<double>(log_weights[p * particles + i]);
  }
};

}  // namespace edmfast
