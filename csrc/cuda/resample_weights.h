// What every path of systematic resampling shares: the job, the integer weights, the decision.
#pragma once
#include <limits>

#include "../include/decision.h"
#include "collective.h"

namespace edmfast {

template <class T>
struct ResampleJob {
  const T* log_weights;
  const double* uniform;
  double ess_threshold;
  int32_t* ancestors;
  double* log_mean;
  double* ess;
  bool* resampled;
  int32_t* degenerate;
  int64_t populations, particles;
};

// No default member values here and below: shared memory takes no constructors.
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
  // equality first: it also serves a maximum of +inf
  return quantised_exp(value == maximum ? 0.0 : value - maximum, bits);
}

// One thread per population: writes its outputs and says whether it is resampled.
template <class T>
__device__ __forceinline__ bool decide_population(const ResampleJob<T>& job, int64_t p, const Maximum& maximum,
                                                  const Totals& sums) {
  const Decision decision = decide(maximum.value, maximum.has_nan != 0, sums.total, sums.high, sums.low,
                                   job.particles, fraction_bits(job.particles), job.ess_threshold);
  job.ess[p] = decision.ess;
  job.log_mean[p] = decision.log_mean;
  job.degenerate[p] = decision.degenerate;
  job.resampled[p] = decision.resampled;
  return decision.resampled;
}

}  // namespace edmfast
